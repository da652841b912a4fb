"""Entropy of channels, against scipy's of numpy's histograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.esparse.entropy import add_counts, entropy_of_counts, histogram_bounds
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics


def channel_entropy(x: torch.Tensor, bins: int = 100, kind: str = "channel") -> torch.Tensor:
    """Entropy of each column of x (T, C), by the package's histogram: (C,)."""
    counts = torch.zeros(x.shape[1], bins, dtype=torch.long)
    add_counts(counts, x, *histogram_bounds(x, kind))
    return entropy_of_counts(counts)


def by_hand(x: np.ndarray, bins: int, low=None, high=None) -> np.ndarray:
    """Entropy of each column's histogram; low, high: (C,) ends, beyond which values are clipped."""
    x = x.astype(np.float64)
    low, high = x.min(0) if low is None else low, x.max(0) if high is None else high
    found = []
    for column, a, b in zip(x.T, low, high, strict=True):
        counts, _ = np.histogram(np.clip(column, a, b), bins=bins, range=(a, b))
        found.append(scipy.stats.entropy(counts) if b > a else 0.0)
    return np.array(found)


def random_inputs(tokens: int = 700, channels: int = 9, seed: int = 0) -> torch.Tensor:
    """Channels of different shapes: normal, skewed, rectified, with outliers; scales from 0.01 to 30."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(tokens, channels))
    x[:, 1::4] = np.exp(x[:, 1::4])
    x[:, 2::4] = np.maximum(x[:, 2::4], 0)
    x[:3, 3::4] *= 50
    return torch.from_numpy(x * draw.uniform(0.01, 30, size=channels) + draw.normal(size=channels)).float()


@pytest.mark.parametrize("channels", [1, 9, 64, 65, 130])
@pytest.mark.parametrize("bins", [2, 16, 100])
def test_entropy_is_scipys(channels, bins):
    x = random_inputs(channels=channels)
    np.testing.assert_allclose(channel_entropy(x.clone(), bins), by_hand(x.numpy(), bins), atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_entropy_of_half_precision_inputs_is_computed_in_float32(dtype):
    x = random_inputs().to(dtype)
    found = channel_entropy(x.clone(), 64)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, by_hand(x.float().numpy(), 64), atol=5e-3)  # some values lie on a bin's edge


@pytest.mark.parametrize("kind", ["channel", "layer", "quantile"])
@pytest.mark.parametrize("channels", [3, 70])
def test_the_input_is_left_as_it_is(kind, channels):
    x = random_inputs(channels=channels)
    before = x.clone()
    channel_entropy(x, 100, kind)
    assert torch.equal(x, before)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e4])
def test_a_constant_channel_has_none(value):
    x = torch.full((50, 2), value)
    x[:, 1] = torch.linspace(0, 1, 50)
    entropy = channel_entropy(x, 10)
    assert entropy[0] == 0
    assert entropy[1] > 2


def test_a_nearly_constant_channel_is_no_error():
    """Its range is so small that bins / range is not finite in float32."""
    entropy = channel_entropy(torch.tensor([[0.0], [1e-40], [2e-40]]), 10)
    assert torch.isfinite(entropy).all()
    assert 0 <= entropy.item() <= math.log(10)


@pytest.mark.parametrize("bins", [2, 7, 100])
def test_a_uniform_grid_has_the_largest(bins):
    grid = torch.arange(bins).repeat(3)[:, None].float()
    torch.testing.assert_close(channel_entropy(grid, bins), torch.tensor([math.log(bins)]))


@given(
    values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=40),
    power=st.integers(-8, 8),
    shift=st.integers(-1000, 1000),
    bins=st.integers(2, 100),
)
def test_scale_and_shift_do_not_matter(values, power, shift, bins):
    x = torch.tensor(values).float()[:, None]  # whole numbers and powers of two: exact in float32
    moved = (x + shift) * 2.0**power
    assert torch.equal(channel_entropy(x.clone(), bins), channel_entropy(moved, bins))


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), bins=st.integers(2, 120))
def test_it_lies_between_zero_and_the_largest(values, bins):
    entropy = channel_entropy(torch.tensor(values)[:, None], bins).item()
    assert 0 <= entropy <= math.log(min(bins, len(values))) + 1e-6


def test_the_layers_range_is_shared():
    x = random_inputs()
    low, high = np.full(9, x.min()), np.full(9, x.max())
    np.testing.assert_allclose(channel_entropy(x.clone(), 100, "layer"), by_hand(x.numpy(), 100, low, high), atol=2e-5)


@pytest.mark.parametrize(("tokens", "beyond"), [(700, 0), (1000, 1), (4500, 4)])
def test_the_quantile_range_leaves_a_thousandth_out_at_each_end(tokens, beyond):
    x = random_inputs(tokens=tokens)
    ordered = np.sort(x.numpy(), axis=0)
    low, high = ordered[beyond], ordered[tokens - 1 - beyond]
    found = histogram_bounds(x, "quantile")
    assert torch.equal(found[0], torch.from_numpy(low))
    assert torch.equal(found[1], torch.from_numpy(high))
    np.testing.assert_allclose(
        channel_entropy(x.clone(), 100, "quantile"), by_hand(x.numpy(), 100, low, high), atol=1e-4
    )


def test_counts_of_nothing_have_no_entropy():
    assert entropy_of_counts(torch.zeros(2, 5, dtype=torch.long)).tolist() == [0, 0]


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), kind=st.sampled_from(["channel", "layer"]))
def test_two_passes_find_what_one_finds(sizes, kind):
    x = random_inputs(tokens=sum(sizes))
    wanted = (
        by_hand(x.numpy(), 32)
        if kind == "channel"
        else by_hand(x.numpy(), 32, [x.min().item()] * 9, [x.max().item()] * 9)
    )
    for keep in (True, False):
        statistics = InputStatistics(RequiredStatistics(frozenset({"entropy"}), 32, kind), keep)
        for part in x.split(sizes):
            statistics.add(part.clone())
        assert statistics.end_pass() is not keep
        if not keep:
            for part in x.split(sizes):
                statistics.add(part.clone())
            assert not statistics.end_pass()
        np.testing.assert_allclose(statistics.entropy, wanted, atol=2e-5)
