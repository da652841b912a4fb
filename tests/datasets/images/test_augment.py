"""Crops and mirror images: against Pillow, and what must hold of every batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from datasets.images.augment import Augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_pillow(image: torch.Tensor, corner: list[int], mirrored: bool, crop: int) -> torch.Tensor:
    """(3, H, W) uint8 -> the same."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = ImageOps.mirror(picture) if mirrored else picture
    width, height = picture.size
    padded = ImageOps.expand(picture, border=crop, fill=0)
    top, left = corner
    window = padded.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(window)).permute(2, 0, 1)


@settings(max_examples=40)
@given(
    crop=st.integers(0, 5),
    flip=st.booleans(),
    batch=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_each_image_is_a_crop_of_its_own_padded_mirrored_self(crop, flip, batch, height, width, seed):
    x = torch.randint(1, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator(seed))
    augment = Augment(crop, flip)
    corner, mirrored = augment.draw(batch, generator(seed))
    assert corner.min() >= 0
    assert corner.max() <= 2 * crop
    assert flip or not mirrored.any()
    before = x.clone()
    out = augment(x, generator(seed))
    assert torch.equal(x, before)
    expected = [by_pillow(*row, crop) for row in zip(x, corner.tolist(), mirrored.tolist(), strict=True)]
    assert torch.equal(out, torch.stack(expected))
    assert torch.equal(augment(x.float() / 255, generator(seed)), out.float() / 255)


def test_every_corner_of_a_crop_and_both_sides_occur_about_as_often():
    augment, count = Augment(crop=1, flip=True), 9000
    corner, mirrored = augment.draw(count, generator())
    counts = torch.bincount(corner[:, 0] * 3 + corner[:, 1], minlength=9)
    assert counts.min() > 850
    assert counts.max() < 1150
    assert abs(int(mirrored.sum()) - count / 2) < 200


def test_what_a_generator_says_is_what_comes():
    x = torch.rand(8, 1, 6, 6)
    augment = Augment(2, True)
    assert torch.equal(augment(x, generator(3)), augment(x, generator(3)))
    assert not torch.equal(augment(x, generator(3)), augment(x, generator(4)))
    one = generator(3)
    first = augment(x, one)
    assert not torch.equal(first, augment(x, one))  # it goes on


def test_mirrored_twice_is_the_image_itself():
    x, augment = torch.rand(8, 3, 4, 5), Augment(flip=True)
    _, mirrored = augment.draw(8, generator())
    none = torch.zeros(8, 2, dtype=torch.long)
    once = augment.apply(x, none, mirrored)
    assert torch.equal(once[mirrored], x[mirrored].flip(-1))
    assert torch.equal(augment.apply(once, none, mirrored), x)


def test_neither_crop_nor_flip_changes_nothing():
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(Augment()(x, generator()), x)


def test_memory_that_is_not_laid_out_row_by_row():
    x = torch.randint(256, (5, 3, 4, 6), dtype=torch.uint8)
    augment = Augment(2, True)
    assert torch.equal(augment(x.to(memory_format=torch.channels_last), generator()), augment(x, generator()))


def test_gradients_flow_back_to_the_pixels_that_are_shown():
    augment = Augment(3, True)
    with torch.inference_mode():
        augment(torch.ones(5, 2, 7, 7), generator())
    x = torch.ones(5, 2, 7, 7, requires_grad=True)
    out = augment(x, generator())
    out.sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}
    assert x.grad.sum() == out.sum()


def test_a_negative_crop_is_refused():
    with pytest.raises(ValueError, match=r"augment\.crop"):
        Augment(crop=-1)
