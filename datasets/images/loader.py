"""Batches cut out of images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.batching import batch_sizes, generator
from datasets.images.augment import Augment


class ImageSet(NamedTuple):
    """Images and their labels.

    Shapes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, classes 0..K-1.
    """

    images: Tensor
    labels: Tensor


class ImageBatch(NamedTuple):
    """Batch of images.

    Shapes:
        x: (B, C, H, W) float32 in [0, 1].
        y: (B,) int64, class of each image.
        index: (B,) int64, place of each image in its part.
    """

    x: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name


class ImageLoader:
    """Loader of ImageBatches; of several processes each gets its share of every global batch.

    Shuffling depends on (seed, epoch) alone, and augmentation on (seed, epoch, number of the batch). So a resumed run
    sees what an uninterrupted one sees, and neither the device nor the number of processes changes what is drawn. The
    images move to `device` once, as bytes; batches are cut out, augmented and converted to float there.

    A last batch with fewer images than there are processes is joined to the one before it.

    Args:
        images: images and labels of a part.
        batch_size: images in a global batch.
        places: (M,) int64, places of the images to go through; None: all.
        shuffle: shuffle the images in every epoch.
        drop_last: leave out a last batch that is not full.
        augment: augmentation of every batch, or None.
        views: number of differently augmented copies of each image in a batch: all images once, then all again.
        seed: seed of shuffling and augmentation.
        rank: number of this process.
        world_size: number of processes.
        device: device of the batches.

    Raises:
        ValueError: there is not an image of each batch for every process, or no full batch with `drop_last`.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        places: Tensor | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: Augment | None = None,
        views: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.places = torch.arange(len(images.labels)) if places is None else places
        count = len(self.places)
        if min(batch_size, count) < world_size:
            raise ValueError(f"{count} images in batches of {batch_size} are too few for {world_size} processes")
        if drop_last and count < batch_size:
            raise ValueError(f"{count} images make no full batch of {batch_size}, and drop_last is set")
        self.images, self.batch_size = ImageSet(*(part.to(device) for part in images)), batch_size
        self.shuffle, self.drop_last, self.augment, self.views, self.seed = shuffle, drop_last, augment, views, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.sampler, self.batch_sampler = self, None  # Lightning calls set_epoch of a loader's sampler

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, which shuffling and augmentation depend on."""
        self.epoch = epoch

    def _sizes(self) -> list[int]:
        return batch_sizes(len(self.places), self.batch_size, self.world_size, self.drop_last)

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[ImageBatch]:
        epoch = self.epoch  # read at the first batch: Lightning sets it after it has created the iterator
        order = self.places
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=generator(self.seed, epoch))]
        sizes = self._sizes()
        for number, index in enumerate(order[: sum(sizes)].split(sizes)):
            yield self._batch(index, (self.seed, epoch, number))

    def _batch(self, index: Tensor, key: tuple[int, ...]) -> ImageBatch:
        """Return this process's share of a global batch.

        Args:
            index: (B,) int64, places of the images of the global batch.
            key: numbers that the augmentation depends on.
        """
        share = torch.arange(self.views * len(index)).view(self.views, -1)[:, self.rank :: self.world_size].flatten()
        index = index.repeat(self.views)
        places = index[share].to(self.images.images.device)
        x = self.images.images.index_select(0, places)
        if self.augment:
            corner, mirrored = self.augment.draw(len(index), generator(*key))
            x = self.augment.apply(x, corner[share], mirrored[share])
        return ImageBatch(x.float().div_(255), self.images.labels.index_select(0, places), places)


class StepNumbers:
    """Step numbers of an epoch, 0, 1, ..., for methods that cut their own batches.

    There is at least one step.

    Args:
        count: function that returns the number of steps. It is called after the first number has been yielded, when
            the epoch has begun, since the number may change from epoch to epoch.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        yield 0  # Lightning asks for it before the epoch has begun, and for the second in the first step
        yield from range(1, self.count())
