"""Embedded data set: 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), shipped with scikit-learn."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from datasets.images.loader import ImageSet

TEST = 360


def read_digits(size: int) -> tuple[ImageSet, ImageSet]:
    """Read the digits and split them into train (1,437) and test (360), stratified and always alike.

    The split is ours; none is published. The values 0..16 are scaled to 0..255.

    Args:
        size: side of the images, which are enlarged bilinearly.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = torch.from_numpy(digits.images)[:, None].float() * (255 / 16)
    images = interpolate(small, size=(size, size), mode="bilinear", align_corners=False).round().byte()
    labels = torch.from_numpy(digits.target).long()
    split = train_test_split(range(len(labels)), test_size=TEST, stratify=digits.target, random_state=0)
    train, test = (ImageSet(images[index], labels[index]) for index in map(torch.tensor, split))
    return train, test
