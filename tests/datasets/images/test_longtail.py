"""Long tails: the published numbers of images, and which images are kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets.images.longtail import long_tail_counts, subset_per_class


@pytest.mark.parametrize(
    ("largest", "num_classes", "sums"),
    [
        (4990, 10, {100: 12380, 50: 13967, 20: 16989, 10: 20391}),  # Meta-Weight-Net: 10 a class are taken out first
        (490, 100, {100: 10626, 50: 12354, 20: 15594, 10: 19183}),
        (5000, 10, {100: 12406, 50: 13996, 20: 17023, 10: 20431}),  # LDAM, BBN
    ],
)
def test_published_sums(largest, num_classes, sums):
    assert {imbalance: sum(long_tail_counts(largest, imbalance, num_classes)) for imbalance in sums} == sums


def test_published_counts():
    assert long_tail_counts(4990, 100, 10) == [4990, 2991, 1793, 1075, 644, 386, 231, 138, 83, 49]
    many = long_tail_counts(490, 100, 100)
    assert many[:3] + many[-3:] == [490, 467, 446, 5, 5, 4]
    assert long_tail_counts(7, 1, 4) == [7, 7, 7, 7]
    assert long_tail_counts(7, 3, 1) == [7]


@given(st.integers(1, 10_000), st.floats(1, 1000), st.integers(1, 200))
def test_counts_never_rise(largest, imbalance, num_classes):
    counts = long_tail_counts(largest, imbalance, num_classes)
    assert counts[0] == largest
    assert counts == sorted(counts, reverse=True)
    if num_classes > 1:
        assert abs(counts[-1] - largest / imbalance) <= 1


@pytest.mark.parametrize("imbalance", [0.99, 0, -1, float("nan")])
def test_the_last_class_cannot_have_more_than_the_first(imbalance):
    with pytest.raises(ValueError, match=r"dataset\.imbalance must be at least 1"):
        long_tail_counts(10, imbalance, 3)


def test_each_class_gives_as_many_as_asked():
    labels = torch.randint(4, (200,), generator=torch.Generator().manual_seed(0))
    chosen = subset_per_class(labels, [20, 10, 5, 0], seed=1)
    assert labels[chosen].bincount(minlength=4).tolist() == [20, 10, 5, 0]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen.tolist() == subset_per_class(labels, [20, 10, 5, 0], seed=1).tolist()
    assert chosen.tolist() != subset_per_class(labels, [20, 10, 5, 0], seed=2).tolist()
    assert set(chosen.tolist()) < set(subset_per_class(labels, [25, 25, 25, 25], seed=1).tolist())
    with pytest.raises(ValueError, match="100 images of class 1 are asked for, there are"):
        subset_per_class(labels, [1, 100, 1, 1], seed=1)
