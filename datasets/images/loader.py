"""Batches cut out of images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.batching import batch_sizes, generator
from datasets.images.augment import Augment


class ImageSet(NamedTuple):
    """images: (N, C, H, W) uint8; labels: (N,) int64, classes 0..K-1."""

    images: Tensor
    labels: Tensor


class ImageBatch(NamedTuple):
    """x: (B, C, H, W) float32 in [0, 1]; y: (B,) int64 class; index: (B,) int64, place of each image in its part."""

    x: Tensor
    y: Tensor
    index: Tensor


class ImageLoader:
    """Iterates over ImageBatches of `batch_size` images; of several processes each gets its share of every batch.

    Shuffling follows (seed, epoch) alone, and augmentation (seed, epoch, number of the batch): a resumed run sees what
    an uninterrupted one sees, and neither the device nor the number of processes changes what is drawn. The images
    move to `device` once, as bytes; batches are cut out, augmented and made float there.

    A last batch of fewer images than there are processes joins the one before it, so that none is left without.

    Args:
        places: the images that it goes through, (M,) int64 in the part; None: all of them.
        drop_last: leave out a last batch that is not full. augment: what is done to every batch.
        views: times that a batch has each of its `batch_size` images, augmented anew: all of them, then all again.
        rank, world_size: of this process.

    Raises ValueError where there is not a batch for every process.
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
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _sizes(self) -> list[int]:
        """Images of each global batch."""
        return batch_sizes(len(self.places), self.batch_size, self.world_size, self.drop_last)

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[ImageBatch]:
        epoch = self.epoch  # looked up at the first batch: Lightning sets it after it has made the iterator
        order = self.places
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=generator(self.seed, epoch))]
        sizes = self._sizes()
        for number, index in enumerate(order[: sum(sizes)].split(sizes)):
            yield self._batch(index, (self.seed, epoch, number))

    def _batch(self, index: Tensor, key: tuple[int, ...]) -> ImageBatch:
        """This process's share of the global batch of the images `index`, whose augmentation follows `key`."""
        share = torch.arange(self.views * len(index)).view(self.views, -1)[:, self.rank :: self.world_size].flatten()
        index = index.repeat(self.views)
        here = index[share].to(self.images.images.device)
        x = self.images.images.index_select(0, here)
        if self.augment:
            corner, mirrored = self.augment.draw(len(index), generator(*key))
            x = self.augment.apply(x, corner[share], mirrored[share])
        return ImageBatch(x.float().div_(255), self.images.labels.index_select(0, here), here)


class Turns:
    """Iterates over 0, 1, ..., as many as `count` says once the first is asked for: a training loop's steps, for
    methods that cut their own batches, of a number that may change from epoch to epoch. At least one."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        yield 0  # Lightning asks for it before the epoch has begun, and for the second in the first step
        yield from range(1, self.count())
