"""Bit-planes against Python's integer arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.f2at.bitplanes import BitPlanes, low_planes, quantise

GREYS = torch.arange(256)
IMAGE = (GREYS / 255).view(1, 1, 16, 16)


@pytest.mark.parametrize("k", range(1, 8))
def test_planes_are_the_bits_of_grey_levels(k):
    natural, perturbed = BitPlanes(k)(IMAGE)
    low = [q & (2**k - 1) for q in range(256)]
    high = [q >> k << k for q in range(256)]
    assert (255 * natural).round().flatten().tolist() == high
    assert torch.allclose(perturbed.flatten(), torch.tensor(low) / (2**k - 1))
    unstretched = BitPlanes(k, stretch=False)(IMAGE)[1]
    assert torch.allclose(natural + unstretched, IMAGE)
    risen = BitPlanes(k, mid_rise=True)(IMAGE)[0]
    assert (255 * risen).round().flatten().tolist() == [min(255, q + 2 ** (k - 1)) for q in high]


@given(st.integers(0, 255))
def test_eight_bit_images_are_quantised_exactly(q):
    assert quantise(torch.tensor(q / 255, dtype=torch.float32)) == q
    assert quantise(torch.tensor(q, dtype=torch.float32) / 255) == q


def test_both_patterns_are_images():
    x = torch.rand(3, 3, 8, 8)
    for pattern in BitPlanes(4, pre_noise=4.0, mid_rise=True)(x):
        assert pattern.min() >= 0
        assert pattern.max() <= 1


def test_bfloat16_images_are_cut_in_float32():
    natural, _ = BitPlanes(2)(IMAGE.bfloat16())
    assert natural.dtype == torch.float32
    assert (255 * natural).round().remainder(4).max() == 0


@pytest.mark.parametrize(("k", "share"), [(3, 1.0), (4, 0.5), (5, 0.25), (6, 0.125)])
def test_a_shift_of_eight_carries_into_the_high_planes_as_often_as_counted(k, share):
    inside = IMAGE[..., :12, :]  # 192 grey levels: whole steps of every cut, none clipped at white
    assert BitPlanes(k).leak(inside, inside + 8 / 255) == pytest.approx(share, abs=1e-6)


def test_a_cut_leaves_planes_on_both_sides():
    with pytest.raises(ValueError, match=r"1\.\.7"):
        BitPlanes(8)


def test_low_planes_of_two():
    assert low_planes(torch.tensor([5.0]), 2) == 1


@pytest.mark.parametrize(
    ("settings", "message"), [({"k": 0}, "1..7"), ({"k": 8}, "1..7"), ({"pre_noise": -1.0}, "pre_noise")]
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BitPlanes(**settings)
