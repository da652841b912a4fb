"""The embedded digits: against scikit-learn's arrays and Pillow's enlarging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from datasets.images.datamodule import Digits


def as_rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_both_parts_are_all_digits_each_once_with_its_label():
    data = Digits(size=8)  # as they come
    data.setup()
    digits = load_digits()
    theirs = np.floor(digits.images * 255 / 16 + 0.5).astype(np.uint8)
    expected = sorted((image.tobytes(), int(label)) for image, label in zip(theirs, digits.target, strict=True))
    found = []
    for part in data.parts.values():
        found += zip(as_rows(part.images), part.labels.tolist(), strict=True)
    assert sorted(found) == expected
    assert {name: len(part.labels) for name, part in data.parts.items()} == {"train": 1437, "test": 360}


def test_the_split_is_stratified_and_fixed():
    one, other = Digits(seed=0, split_seed=0), Digits(seed=5, split_seed=5)
    one.setup()
    other.setup()
    for name, part in one.parts.items():
        assert torch.equal(part.images, other.parts[name].images)
        share = torch.bincount(part.labels) / len(part.labels)
        assert torch.allclose(share, torch.bincount(torch.from_numpy(load_digits().target)) / 1797, atol=0.003)
    assert one.parts["test"].labels[:8].tolist() == [7, 6, 3, 7, 7, 3, 2, 8]


@pytest.mark.parametrize("size", [8, 16, 28])
def test_enlarged_as_pillow_does(size):
    small, large = Digits(size=8), Digits(size=size)
    small.setup()
    large.setup()
    assert large.dims == {
        "in_channels": 1,
        "num_classes": 10,
        "image_size": size,
        "mean": [pytest.approx(0.305, abs=0.002)],
        "std": large.std,
    }
    for i in range(0, 1437, 100):
        picture = Image.fromarray(small.train_images[i, 0].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        difference = np.array(picture).astype(int) - large.train_images[i, 0].numpy()
        assert np.abs(difference).max() <= 2  # small ones are rounded before, and each time


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match=r"dataset\.size must be at least 8, got 7"):
        Digits(size=7)
