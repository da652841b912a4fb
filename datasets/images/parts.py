"""Parts of an image data set: checks, and what is held out, kept or removed before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from datasets.download import CorruptData
from datasets.images.loader import ImageSet
from datasets.images.longtail import long_tail_counts, subset_per_class

CHANGE_EXPECT = "to use it nevertheless, set dataset.expect=null (an empty {} keeps the values of the config file)"


def check_parts(parts: Mapping[str, ImageSet], classes: Sequence[str], expect: Mapping[str, int]) -> None:
    """Raise CorruptData if the parts do not fit together.

    Args:
        parts: train and test.
        classes: names of the classes.
        expect: number of images of each part that is named.
    """
    counts = {name: len(part.labels) for name, part in parts.items()}
    if wrong := {name: counts[name] for name, count in expect.items() if counts[name] != count}:
        raise CorruptData(
            f"this copy of the data has {wrong} images, expected {dict(expect)}: it is damaged or another version; "
            f"{CHANGE_EXPECT}"
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
        if lowest < 0 or highest >= len(classes):
            raise CorruptData(f"the {name} part has labels from {lowest} to {highest}, expected 0..{len(classes) - 1}")


def channel_moments(images: Tensor) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel, of pixels in [0, 1], to four digits.

    Args:
        images: (N, C, H, W) uint8.

    Returns:
        C means and C standard deviations.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        mean.append(round(float(share.double() @ values), 4))
        std.append(round(float((share.double() @ (values - share.double() @ values) ** 2).sqrt()), 4))
    return mean, std


def select(part: ImageSet, index: Tensor) -> ImageSet:
    """Return the images at `index` (M,), in their old order; all of them are not copied."""
    if len(index) == len(part.labels):
        return part
    index = index.sort().values
    return ImageSet(part.images[index], part.labels[index])


def shuffled(count: int, seed: int) -> Tensor:
    """Return a random order of `count` images: (count,) int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def limited(count: int, limit: int | None, seed: int) -> Tensor:
    """Return the places of at most `limit` of `count` images, drawn at random, in ascending order; None: all."""
    return torch.arange(count) if limit is None or limit >= count else shuffled(count, seed)[:limit].sort().values


def hold_out(train: ImageSet, holdout: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split `holdout` images, drawn at random, off the training part.

    Returns:
        The images that are held out, and the others.

    Raises:
        ValueError: no training image would be left.
    """
    count = len(train.labels)
    if holdout >= count:
        raise ValueError(f"dataset.holdout={holdout} leaves none of the {count} training images")
    held, rest = shuffled(count, seed).split([holdout, count - holdout])
    return select(train, held), select(train, rest)


def take_meta(
    part: ImageSet, per_class: int, classes: Sequence[str], seed: int, name: str
) -> tuple[ImageSet, ImageSet]:
    """Split `per_class` images of each class, drawn at random, off a part.

    Args:
        part: images to split.
        per_class: number of images of each class.
        classes: names of the classes.
        seed: decides which images are taken.
        name: "training" or "test", for the error message.

    Returns:
        The images that are taken, and the others.

    Raises:
        ValueError: no image of a class would be left.
    """
    counts = part.labels.bincount(minlength=len(classes)).tolist()
    for label, count in zip(classes, counts, strict=True):
        if per_class >= count:
            raise ValueError(f"dataset.meta={per_class} leaves none of the {count} {name} images of {label!r}")
    index = subset_per_class(part.labels, [per_class] * len(classes), seed)
    rest = torch.ones(len(part.labels), dtype=torch.bool).index_fill(0, index, False).nonzero()[:, 0]
    return select(part, index), select(part, rest)


def keep_long_tail(train: ImageSet, imbalance: float, classes: Sequence[str], seed: int) -> ImageSet:
    """Keep exponentially fewer images from the first class to the last.

    Args:
        train: training images.
        imbalance: ratio of the numbers of images of the first and the last class.
        classes: names of the classes.
        seed: decides which images are kept.

    Raises:
        ValueError: no image of the last class would be left.
    """
    smallest = min(train.labels.bincount(minlength=len(classes)).tolist())
    counts = long_tail_counts(smallest, imbalance, len(classes))
    if not counts[-1]:
        raise ValueError(
            f"dataset.imbalance={imbalance} leaves no training image of {classes[-1]!r}: "
            f"the smallest class has {smallest}"
        )
    return select(train, subset_per_class(train.labels, counts, seed))
