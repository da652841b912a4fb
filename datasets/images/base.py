"""Base class of all DataModules of labelled images: parts held in memory as bytes, and loaders over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count as counting
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datasets.batching import ranks
from datasets.checks import check_choice, check_keys, check_not_negative, check_positive, check_seed
from datasets.images.augment import Augment
from datasets.images.loader import ImageBatch, ImageLoader, ImageSet, StepNumbers
from datasets.images.longtail import long_tail_counts
from datasets.images.noise import add_label_noise, check_noise, read_labels
from datasets.images.parts import channel_moments, check_parts, hold_out, keep_long_tail, limited, select, take_meta

META, CHOSEN = 1, 2  # keep the random numbers of these batches apart from those of training
NOISE_KEYS = ("kind", "rate")


class ImageDataModule(LightningDataModule):
    """DataModule of labelled images. A subclass reads them.

    It yields `ImageBatch`: x (B, C, H, W) float32 in [0, 1], y (B,) int64 in 0..K-1, index (B,) int64, place of each
    image in its part. Images are not normalised: the model does that, with `mean` and `std` of `dims`.

    Loaders: train (shuffled, augmented), val (the parts `val_parts`, not augmented; no loader if nothing is held out),
    test. Batches are global ones: of several processes each takes its share. A method that cuts its own batches
    (`chosen_batches`) sets `steps` before training, a function that returns the number of steps of the epoch; the
    train loader then yields step numbers alone.

    Attributes after `setup`:
        parts: ImageSet of train, test and, if configured, val and meta. A method may replace one, for instance with
            other labels, before the loaders are created.
        classes: names of the classes.
        true_labels: (N,) int64 labels of the training part as the files have them.
        noisy: (N,) bool, True where the label in `parts` differs from `true_labels`.

    The training part is what `holdout`, then `meta`, then `imbalance` leave. Then its labels get noise, and
    `limit_train` is applied last. So val, meta and test keep the labels of the files.

    Args:
        batch_size: images in a global training batch.
        eval_batch_size: images in a global batch of validation and test.
        augment: arguments of `Augment` for training images, or None for no augmentation.
        holdout: number of training images, drawn at random, that become val.
        split_seed: seed of `holdout`, `meta`, `imbalance` and the limits.
        limit_train: largest number of training images: the first ones of a shuffle by `split_seed`, in the order of
            the files. None: all.
        limit_test: largest number of test images, likewise.
        drop_last: leave out a last training batch that is not full.
        evaluate_train: also evaluate the training part, without augmentation, after every epoch.
        mean: mean of each channel over the training part, of pixels in [0, 1]; None: computed.
        std: standard deviation of each channel, likewise.
        expect: number of images that `train` and `test` must have; a damaged copy is refused by them.
        meta: number of images of each class that become the part meta.
        meta_from: part that `meta` is taken from, `train` or `test`. With `test`, as in MLC, a method that learns from
            meta has seen images of the test set.
        imbalance: ratio of the numbers of images of the first and the last class, with exponentially fewer images from
            class to class; the first class keeps as many as the smallest class has. None: all images are kept.
        noise: `kind` (name in `noise.KINDS`) and `rate` (in [0, 1]) of label noise in training. None: no noise.
        noise_seed: seed of the label noise.
        noise_file: JSON list of the training labels, below the data folder; it takes the place of `noise`. It has a
            label for every image that `holdout`, `meta` and `imbalance` leave, in the order of the files.
        validate_on_test: validate on the test images instead of val. Published tables choose the best epoch so.
        root: data folder.
        seed: seed of shuffling and augmentation.
        workers: unused, the data is in memory.

    Raises:
        ValueError: bad arguments; in `setup`, more images held out than there are, or noise that is not defined for
            this set.
        MissingData: a file is missing (in `setup`).
        CorruptData: a file is damaged (in `setup`).
    """

    task = "image-classification"
    confusions: Mapping[int, int] | None = None  # class -> class that it is confused with in asymmetric noise
    coarse: Sequence[int] | None = None  # super-class of each class

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augment: Mapping[str, Any] | None = None,
        holdout: int = 0,
        split_seed: int = 0,
        limit_train: int | None = None,
        limit_test: int | None = None,
        drop_last: bool = False,
        evaluate_train: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        expect: Mapping[str, int] | None = None,
        meta: int = 0,
        meta_from: str = "train",
        imbalance: float | None = None,
        noise: Mapping[str, Any] | None = None,
        noise_seed: int = 0,
        noise_file: str | None = None,
        validate_on_test: bool = False,
        root: str | Path = "data",
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        check_positive("dataset", batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_positive("dataset", limit_train=limit_train, limit_test=limit_test)
        check_not_negative("dataset", holdout=holdout, meta=meta)
        check_seed("dataset", noise_seed=noise_seed)
        check_choice("dataset.meta_from", meta_from, ("train", "test"))
        check_std(std)
        if imbalance is not None:
            long_tail_counts(1, imbalance, 1)  # raises for a ratio below 1
        if noise is not None:
            check_keys("dataset.noise", noise, NOISE_KEYS, NOISE_KEYS)
            check_noise(**noise)
        if augment:
            check_keys("dataset.augment", augment, ("crop", "flip"))
        check_keys("dataset.expect", expect or {}, ("train", "test"))

        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment = Augment(**augment) if augment else None
        self.holdout, self.split_seed = holdout, split_seed
        self.limit_train, self.limit_test = limit_train, limit_test
        self.drop_last, self.evaluate_train = drop_last, evaluate_train
        self.mean = None if mean is None else list(mean)
        self.std = None if std is None else list(std)
        self.expect = dict(expect or {})
        self.meta, self.meta_from, self.imbalance = meta, meta_from, imbalance
        self.noise = None if noise is None else dict(noise)
        self.noise_seed, self.noise_file = noise_seed, noise_file
        self.validate_on_test = validate_on_test
        self.root, self.seed = Path(root), seed
        self.parts: dict[str, ImageSet] = {}
        self.steps: Callable[[], int] | None = None
        self._copies: dict[tuple[str, torch.device], tuple[ImageSet, ImageSet]] = {}

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the files. A subclass implements this.

        Returns:
            Train, test, names of the classes.
        """
        raise NotImplementedError(f"{type(self).__name__}.read is missing")

    def setup(self, stage: str | None = None) -> None:
        """Read the images and split them into parts, once."""
        if self.parts:
            return
        train, test, self.classes = self.read()
        check_parts({"train": train, "test": test}, self.classes, self.expect)
        self._check_size(train.images)
        self._set_moments(train.images)
        parts: dict[str, ImageSet] = {}
        if self.holdout:
            parts["val"], train = hold_out(train, self.holdout, self.split_seed)
        if self.meta and self.meta_from == "test":
            parts["meta"], test = take_meta(test, self.meta, self.classes, self.split_seed, "test")
        elif self.meta:
            parts["meta"], train = take_meta(train, self.meta, self.classes, self.split_seed, "training")
        if self.imbalance is not None:
            train = keep_long_tail(train, self.imbalance, self.classes, self.split_seed)
        labels = self._noisy_labels(train.labels)
        kept = limited(len(labels), self.limit_train, self.split_seed)
        self.true_labels = train.labels[kept]
        self.noisy = labels[kept] != self.true_labels
        parts["train"] = select(train._replace(labels=labels), kept)
        parts["test"] = select(test, limited(len(test.labels), self.limit_test, self.split_seed))
        self.parts = parts

    def _check_size(self, images: Tensor) -> None:
        """Raise ValueError if a random crop could show nothing but padding."""
        if self.augment and self.augment.crop >= images.shape[-1]:
            raise ValueError(
                f"dataset.augment.crop={self.augment.crop} must be smaller than the images, which have "
                f"{images.shape[-1]} pixels a side"
            )

    def _set_moments(self, images: Tensor) -> None:
        """Compute mean and standard deviation of each channel, unless they are given."""
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if values is not None and len(values) != images.shape[1]:
                raise ValueError(
                    f"dataset.{name} has {len(values)} numbers, the images have {images.shape[1]} channels"
                )
        if not self.mean or not self.std:
            mean, std = channel_moments(images)
            self.mean, self.std = self.mean or mean, self.std or std

    def _noisy_labels(self, labels: Tensor) -> Tensor:
        """Return the training labels (N,) int64: from the file, else with noise, else unchanged."""
        if self.noise_file is not None:
            return read_labels(self.root / self.noise_file, len(labels), len(self.classes), self.root)
        if self.noise is None:
            return labels
        return add_label_noise(
            labels,
            kind=self.noise["kind"],
            rate=self.noise["rate"],
            num_classes=len(self.classes),
            seed=self.noise_seed,
            coarse=self.coarse,
            confusions=self.confusions,
        )

    @property
    def dims(self) -> dict[str, Any]:
        """Arguments of a network: in_channels, num_classes, image_size, mean, std; after `setup`."""
        channels, size = self.train_images.shape[1:3]
        sizes = {"in_channels": channels, "num_classes": len(self.classes), "image_size": size}
        return sizes | {"mean": self.mean, "std": self.std}

    @property
    def train_images(self) -> Tensor:
        """Training images, (N, C, H, W) uint8."""
        return self.parts["train"].images

    @property
    def train_labels(self) -> Tensor:
        """Training labels with their noise, (N,) int64."""
        return self.parts["train"].labels

    @property
    def val_parts(self) -> list[str]:
        """Names of the parts of the validation loaders, in their order."""
        first = "test" if self.validate_on_test else "val"
        return [*([first] if first in self.parts else []), *(["train"] if self.evaluate_train else [])]

    def val_prefix(self, loader: int) -> str:
        """Return the prefix of the metrics of a validation loader: `val/`, also with `validate_on_test`.

        Args:
            loader: index of the validation loader.
        """
        return "train/eval_" if self.val_parts[loader] == "train" else "val/"

    def _loader(self, part: str, batch_size: int, **options: Any) -> ImageLoader:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        options |= ranks(self.trainer)
        return ImageLoader(self._on_device(part, device), batch_size, seed=self.seed, device=device, **options)

    def _on_device(self, part: str, device: torch.device) -> ImageSet:
        """Return a part on a device, where one copy serves all loaders."""
        images, copy = self._copies.get((part, device), (None, None))
        if copy is None or images is not self.parts[part]:
            images = self.parts[part]
            copy = ImageSet(*(tensor.to(device) for tensor in images))
            self._copies[part, device] = images, copy
        return copy

    def train_dataloader(self) -> ImageLoader | StepNumbers:
        """Return the loader of training batches, or of step numbers if a method has set `steps`."""
        if self.steps is not None:
            return StepNumbers(self.steps)
        return self._loader("train", self.batch_size, shuffle=True, drop_last=self.drop_last, augment=self.augment)

    def val_dataloader(self) -> list[ImageLoader]:
        """Return a loader for each of `val_parts`."""
        return [self._loader(part, self.eval_batch_size) for part in self.val_parts]

    def test_dataloader(self) -> ImageLoader:
        """Return the loader of the test part."""
        return self._loader("test", self.eval_batch_size)

    def read_picture(self, path: Path) -> Tensor:
        """Read an image file as the training images are: (C, H, W) uint8."""
        from datasets.images.decode import read_image

        return read_image(path, self.dims["in_channels"], self.dims["image_size"])

    def predict_files(self, paths: list[Path], out: Path, module: Any) -> list[Path]:
        """Write the probability of each class for image files (`prediction.predict_images`)."""
        from datasets.images.prediction import predict_images

        return predict_images(paths, out, module, self)

    def meta_batches(self, batch_size: int, epoch: int) -> Iterator[ImageBatch]:
        """Yield endless shuffled batches of the meta part, augmented as in training.

        They depend on the seed and the epoch alone, so a resumed epoch gets the same ones. All are full: each turn
        through the part is shuffled anew and leaves out what fills no batch. Of several processes each gets its share
        of every batch.

        Args:
            batch_size: images in a global batch.
            epoch: number of the epoch.

        Returns:
            Iterator over batches, whose index is the place in the meta part.

        Raises:
            ValueError: there is no meta part, or it has fewer images than a batch.
        """
        size = len(self.parts["meta"].labels) if "meta" in self.parts else 0
        if not 0 < batch_size <= size:
            raise ValueError(
                f"a meta batch of {batch_size} images cannot be cut out of {size}: "
                f"dataset.meta={self.meta} images of each of {len(self.classes)} classes"
            )
        return self._endless("meta", batch_size, (META, epoch))

    def plain_batches(self) -> ImageLoader:
        """Return a loader of the training images in their order, without augmentation, in evaluation batches."""
        return self._loader("train", self.eval_batch_size)

    def chosen_batches(self, places: Tensor, batch_size: int, views: int, key: tuple[int, ...]) -> Iterator[ImageBatch]:
        """Yield endless shuffled full batches of some training images, augmented as in training.

        They depend on the seed, the key and the places alone.

        Args:
            places: (M,) int64, places of the images in the training part.
            batch_size: images in a batch, before they are repeated.
            views: number of differently augmented copies of each image in a batch.
            key: whole numbers, such as the epoch.

        Returns:
            Iterator over batches of `views` times `batch_size` images.

        Raises:
            ValueError: the images do not fill a batch.
        """
        return self._endless("train", batch_size, (CHOSEN, *key), places=places, views=views)

    def _endless(self, part: str, batch_size: int, key: tuple[int, ...], **options: Any) -> Iterator[ImageBatch]:
        loader = self._loader(part, batch_size, shuffle=True, drop_last=True, augment=self.augment, **options)

        def endless() -> Iterator[ImageBatch]:
            for turn in counting():
                loader.seed = hash((self.seed, *key, turn))
                yield from loader

        return endless()


def check_std(std: Sequence[float] | None) -> None:
    """Raise ValueError if a standard deviation is not positive."""
    if std is not None and not all(value > 0 for value in std):
        raise ValueError(f"dataset.std must be positive, got {list(std)}")
