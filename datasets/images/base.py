"""What all DataModules of labelled images do: parts held in memory as bytes, and loaders over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count as counting
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datasets.batching import ranks
from datasets.download import CorruptData
from datasets.images.augment import Augment
from datasets.images.loader import ImageBatch, ImageLoader, ImageSet, Turns
from datasets.images.longtail import first_of_each, tail_counts
from datasets.images.noise import (
    check_noise,
    corrupt,
    read_labels,
    write_labels,
)

META, CHOSEN = 1, 2  # keep what is drawn for these batches apart from what is drawn for training


class ImageDataModule(LightningDataModule):
    """Yields `ImageBatch`: x (B, C, H, W) float32 in [0, 1], y (B,) int64 in 0..K-1, index (B,) int64 in the part.

    Loaders: train (shuffled, augmented), val (the parts `val_parts`, none of them augmented: no loader where nothing
    is held out), test. Batches are the global ones: under several processes each takes its share. Normalisation is the
    model's: it finds mean and std in `dims`.

    A method that cuts its own batches (`chosen_batches`) sets `steps` before training: called in every epoch, it says
    how many steps that has; train then yields their numbers alone.

    After `setup`: `parts`, the ImageSet of train, test and, with `holdout`, val, with `meta`, meta; a method may
    replace one (other labels, say) before the loaders are made. `classes`: names of the classes. Of the training part,
    `true_labels` (N,) int64, as the files have them, and `noisy` (N,) bool, where the labels in `parts` are others.

    The training part is what `holdout`, then `meta`, then `imbalance` leave; then its labels get noise, and last comes
    `limit_train`. So val, meta and test keep the labels of the files.

    Args:
        batch_size, eval_batch_size: images in a global batch of training; of validation and test.
        augment: arguments of `Augment` for training; None: as they are.
        holdout: images of the training part, drawn at random, that become val.
        split_seed: of what is held out, of meta, of the images that a long tail keeps, and of what the limits leave.
        limit_train, limit_test: so many images at most, the first of the part (without val and meta) when it is
            shuffled by `split_seed`; they stay in the order of the files. None: all.
        drop_last: leave out a last training batch that is not full.
        evaluate_train: also evaluate the training part, without augmentation, after every epoch.
        validate_on_test: the test images take the place of val: what published tables call the best epoch is chosen on
            them.
        mean, std: of each channel over the whole training part, pixels in [0, 1]; None: computed.
        expect: images that `train` and `test` must have. A damaged copy is refused by them.
        meta: images of each class that are taken out of the training part and become meta.
        meta_from: `test`: out of the test part instead, as MLC does. A method that learns from them has then seen
            images of the test set.
        imbalance: how many times fewer images the last class keeps than the first, those between exponentially fewer
            from class to class; the first keeps as many as the smallest class has. None: all are kept.
        noise: `kind` (of `noise.KINDS`) and `rate` (in [0, 1]) of wrong training labels. None: none.
        noise_seed: of which images get which labels.
        noise_file: JSON list of the training labels, below the data folder; read, and `noise` not drawn. It has a
            label for every image that `holdout`, `meta` and `imbalance` leave, in the order of the files.
        root: the data folder. seed: of shuffling and augmentation. workers: unused, the data is in memory.

    Raises MissingData, CorruptData, ValueError (setup: more held out than there is; noise that is not defined for this
    set; bad arguments).
    """

    task = "image-classification"
    confusions: Mapping[int, int] | None = None  # class -> the class that it passes for in asymmetric noise
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
        positive = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "limit_train": limit_train,
            "limit_test": limit_test,
        }
        for name, value in positive.items():
            if value is not None and value < 1:
                raise ValueError(f"dataset.{name} must be positive, got {value}")
        for name, value in {"holdout": holdout, "meta": meta, "noise_seed": noise_seed}.items():
            if value < 0:
                raise ValueError(f"dataset.{name} must not be negative, got {value}")
        if meta_from not in ("train", "test"):
            raise ValueError(f"dataset.meta_from must be train or test, got {meta_from!r}")
        if imbalance is not None:
            tail_counts(1, imbalance, 1)
        if noise is not None:
            if not isinstance(noise, Mapping):
                raise ValueError(f"dataset.noise has a kind and a rate, and is {noise}: dataset.noise.rate={noise}")
            if set(noise) != {"kind", "rate"}:
                raise ValueError(f"dataset.noise must have kind and rate, has {', '.join(noise) or 'neither'}")
            check_noise(**noise)
        if std is not None and min(std, default=1) <= 0:
            raise ValueError(f"dataset.std must be positive, got {list(std)}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment = Augment(**augment) if augment else None
        self.holdout, self.split_seed = holdout, split_seed
        self.limits = {"train": limit_train, "test": limit_test}
        self.drop_last, self.evaluate_train = drop_last, evaluate_train
        self.mean, self.std = (None if values is None else list(values) for values in (mean, std))
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
        """Train, test, names of the classes; a subclass says how."""
        raise TypeError(f"{type(self).__name__} does not say how its images are read")

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        train, test, self.classes = self.read()
        self._check({"train": train, "test": test})
        self.mean, self.std = self._moments(train.images)
        parts = self._split(train)
        if self.meta:
            source = test if self.meta_from == "test" else parts["train"]
            parts["meta"], rest = self._without_meta(source)
            if self.meta_from == "test":
                test = rest
            else:
                parts["train"] = rest
        parts["train"] = self._tailed(parts["train"])
        labels = self._noisy(parts["train"].labels)
        kept = self._kept("train", len(labels))
        self.true_labels = parts["train"].labels[kept]
        self.noisy = labels[kept] != self.true_labels
        parts["train"] = _select(parts["train"]._replace(labels=labels), kept)
        self.parts = parts | {"test": _select(test, self._kept("test", len(test.labels)))}

    def _check(self, parts: dict[str, ImageSet]) -> None:
        """Raises CorruptData where the parts are not of square images of one size with labels of the classes."""
        found = {name: len(part.labels) for name, part in parts.items()}
        if wrong := {name: found[name] for name, count in self.expect.items() if found[name] != count}:
            raise CorruptData(
                f"this copy of the data has {wrong} images, expected {self.expect}: it is damaged or another version"
            )
        shape = parts["train"].images.shape[1:]
        for name, (images, labels) in parts.items():
            if not len(labels):
                raise CorruptData(f"the {name} part has no images")
            if images.shape[1:] != shape or shape[1] != shape[2]:
                raise CorruptData(
                    f"the {name} part has images of {tuple(images.shape[1:])} (channels, height, width); "
                    f"they must be square and of one size, training images are {tuple(shape)}"
                )
            lowest, highest = int(labels.min()), int(labels.max())
            if lowest < 0 or highest >= len(self.classes):
                raise CorruptData(
                    f"the {name} part has labels from {lowest} to {highest}, expected 0..{len(self.classes) - 1}"
                )

    def _moments(self, images: Tensor) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, those given before those computed (to four digits)."""
        given = {"mean": self.mean, "std": self.std}
        for name, values in given.items():
            if values is not None and len(values) != images.shape[1]:
                raise ValueError(
                    f"dataset.{name} has {len(values)} numbers, the images have {images.shape[1]} channels"
                )
        mean, std = moments(images) if None in given.values() else (None, None)
        return self.mean or mean, self.std or std

    def _split(self, train: ImageSet) -> dict[str, ImageSet]:
        """Train and, where images are held out, val."""
        parts = {}
        count = len(train.labels)
        if self.holdout >= count:
            raise ValueError(f"dataset.holdout={self.holdout} leaves none of the {count} training images")
        if self.holdout:
            held, rest = self._shuffled(count).split([self.holdout, count - self.holdout])
            parts["val"], train = _select(train, held), _select(train, rest)
        return parts | {"train": train}

    def _without_meta(self, part: ImageSet) -> tuple[ImageSet, ImageSet]:
        """The images that become meta, and the others."""
        images = {"train": "training", "test": "test"}[self.meta_from]
        for name, have in zip(self.classes, self._class_sizes(part.labels), strict=True):
            if self.meta >= have:
                raise ValueError(f"dataset.meta={self.meta} leaves none of the {have} {images} images of {name!r}")
        index = first_of_each(part.labels, [self.meta] * len(self.classes), self.split_seed)
        rest = torch.ones(len(part.labels), dtype=torch.bool).index_fill(0, index, False).nonzero()[:, 0]
        return _select(part, index), _select(part, rest)

    def _class_sizes(self, labels: Tensor) -> list[int]:
        return labels.bincount(minlength=len(self.classes)).tolist()

    def _tailed(self, train: ImageSet) -> ImageSet:
        if self.imbalance is None:
            return train
        smallest = min(self._class_sizes(train.labels))
        counts = tail_counts(smallest, self.imbalance, len(self.classes))
        if not counts[-1]:
            raise ValueError(
                f"dataset.imbalance={self.imbalance} leaves no training image of {self.classes[-1]!r}: "
                f"the smallest class has {smallest}"
            )
        return _select(train, first_of_each(train.labels, counts, self.split_seed))

    def _noisy(self, labels: Tensor) -> Tensor:
        """(N,) -> (N,) int64: out of the file, else with noise, else as they are."""
        if self.noise_file is not None:
            return read_labels(self.root / self.noise_file, len(labels), len(self.classes), self.root)
        if self.noise is None:
            return labels
        relations = {"coarse": self.coarse, "confusions": self.confusions}
        return corrupt(labels, **self.noise, num_classes=len(self.classes), seed=self.noise_seed, **relations)

    def save_noise(self, path: Path) -> None:
        """Writes the training labels as `noise_file` has them. After `setup`, without `limit_train`."""
        write_labels(path, self.train_labels)

    def _kept(self, name: str, count: int) -> Tensor:
        """Places of the images that the limit leaves of `count`."""
        limit = self.limits[name]
        return torch.arange(count) if limit is None or limit >= count else self._shuffled(count)[:limit].sort().values

    def _shuffled(self, count: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.split_seed))

    @property
    def dims(self) -> dict[str, Any]:
        """What a network must be told of the data. After `setup`."""
        channels, size = self.train_images.shape[1:3]
        sizes = {"in_channels": channels, "num_classes": len(self.classes), "image_size": size}
        return sizes | {"mean": self.mean, "std": self.std}

    @property
    def train_images(self) -> Tensor:
        """(N, C, H, W) uint8."""
        return self.parts["train"].images

    @property
    def train_labels(self) -> Tensor:
        """(N,) int64."""
        return self.parts["train"].labels

    @property
    def val_parts(self) -> list[str]:
        """The parts that validation goes through, in the order of its loaders."""
        first = "test" if self.validate_on_test else "val"
        return [*([first] if first in self.parts else []), *(["train"] if self.evaluate_train else [])]

    def val_prefix(self, loader: int) -> str:
        """What metrics of a validation loader begin with: `val/`, also where the test images take its place."""
        return "train/eval_" if self.val_parts[loader] == "train" else "val/"

    def _loader(self, part: str, batch_size: int, **options: Any) -> ImageLoader:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        options |= ranks(self.trainer)
        return ImageLoader(self._placed(part, device), batch_size, seed=self.seed, device=device, **options)

    def _placed(self, part: str, device: torch.device) -> ImageSet:
        """A part on a device, where it lies once for all loaders."""
        images, placed = self._copies.get((part, device), (None, None))
        if placed is None or images is not self.parts[part]:
            images = self.parts[part]
            placed = ImageSet(*(tensor.to(device) for tensor in images))
            self._copies[part, device] = images, placed
        return placed

    def train_dataloader(self) -> ImageLoader | Turns:
        if self.steps is not None:
            return Turns(self.steps)
        return self._loader("train", self.batch_size, shuffle=True, drop_last=self.drop_last, augment=self.augment)

    def val_dataloader(self) -> list[ImageLoader]:
        return [self._loader(part, self.eval_batch_size) for part in self.val_parts]

    def test_dataloader(self) -> ImageLoader:
        return self._loader("test", self.eval_batch_size)

    def meta_batches(self, batch_size: int, epoch: int) -> Iterator[ImageBatch]:
        """Endless shuffled batches of the meta part, augmented as in training; all full, index being the place in meta.

        They follow (seed, epoch) alone, so a resumed epoch gets the same ones. Each turn through the part is shuffled
        anew and leaves out what fills no batch. Of several processes each gets its share of every batch.

        Raises ValueError where there is no meta part, or not a batch of images in it.
        """
        have = len(self.parts["meta"].labels) if "meta" in self.parts else 0
        if not 0 < batch_size <= have:
            raise ValueError(
                f"a meta batch of {batch_size} images cannot be cut out of {have}: "
                f"dataset.meta={self.meta} images of each of {len(self.classes)} classes"
            )
        return self._endless("meta", batch_size, (META, epoch))

    def plain_batches(self) -> ImageLoader:
        """The training images in their order, as they are, in batches for evaluation."""
        return self._loader("train", self.eval_batch_size)

    def chosen_batches(self, places: Tensor, batch_size: int, views: int, key: tuple[int, ...]) -> Iterator[ImageBatch]:
        """Endless shuffled batches of the training images at `places` (M,), each `views` times, augmented as in
        training; all full. They follow (seed, key) and the places alone.

        Raises ValueError where the images do not fill a batch.
        """
        return self._endless("train", batch_size, (CHOSEN, *key), places=places, views=views)

    def _endless(self, part: str, batch_size: int, key: tuple[int, ...], **options: Any) -> Iterator[ImageBatch]:
        loader = self._loader(part, batch_size, shuffle=True, drop_last=True, augment=self.augment, **options)

        def endless() -> Iterator[ImageBatch]:
            for turn in counting():
                loader.seed = hash((self.seed, *key, turn))
                yield from loader

        return endless()


def moments(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], to four digits: (N, C, H, W) uint8 -> C, C."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        mean.append(round(float(share.double() @ values), 4))
        std.append(round(float((share.double() @ (values - share.double() @ values) ** 2).sqrt()), 4))
    return mean, std


def _select(part: ImageSet, index: Tensor) -> ImageSet:
    """The images at `index`, in their old order; no copy of all."""
    if len(index) == len(part.labels):
        return part
    index = index.sort().values
    return ImageSet(part.images[index], part.labels[index])
