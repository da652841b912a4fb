"""Scores of weights, against their formulas in float64, and special cases in which one method equals another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from methods.esparse.input_statistics import InputStatistics
from methods.esparse.scores import RIA, ESparse, Magnitude, Wanda
from tests.methods.esparse.reference import nm_by_hand

ROWS, COLUMNS, SEQUENCES, LENGTH, BINS = 12, 16, 3, 40, 20


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Inputs of channels that differ in size and in shape."""
    x = torch.randn(SEQUENCES, LENGTH, COLUMNS, generator=torch.Generator().manual_seed(2))
    x[..., ::2] = x[..., ::2].exp()
    return x * torch.linspace(0.05, 2, COLUMNS)


def statistics_of(x: torch.Tensor, score) -> InputStatistics:
    statistics = InputStatistics(score.required)
    statistics.add(x.clone())
    statistics.end_pass()
    return statistics


def scored(score, weight: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    found = score(weight, statistics_of(x, score))
    assert found.dtype == torch.float32
    return found.numpy()


def mean_square(x: torch.Tensor) -> np.ndarray:
    return (x.reshape(-1, x.shape[-1]).double().numpy() ** 2).mean(0)


def entropy(x: torch.Tensor) -> np.ndarray:
    columns = x.reshape(-1, x.shape[-1]).double().numpy().T
    return np.array([scipy.stats.entropy(np.histogram(column, bins=BINS)[0]) for column in columns])


def test_magnitude_needs_no_inputs(weight):
    assert not Magnitude.required.kinds
    assert torch.equal(Magnitude()(weight.half(), None), weight.half().abs().float())


def test_wanda_divides_the_squared_norm_by_the_sequences(weight, x):
    norm = np.sqrt(mean_square(x) * SEQUENCES * LENGTH / SEQUENCES)
    np.testing.assert_allclose(scored(Wanda(), weight, x), np.abs(weight.double().numpy()) * norm, rtol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 0.0])
def test_ria(weight, x, power):
    size = np.abs(weight.double().numpy())
    norm = np.sqrt(mean_square(x) * LENGTH)
    wanted = np.empty_like(size)
    for i in range(ROWS):
        for j in range(COLUMNS):
            wanted[i, j] = (size[i, j] / size[:, j].sum() + size[i, j] / size[i].sum()) * norm[j] ** power
    np.testing.assert_allclose(scored(RIA(power), weight, x), wanted, rtol=1e-5)


def test_ria_without_activations_asks_for_none(weight):
    assert not RIA(0.0).required.kinds
    assert torch.isfinite(RIA(0.0)(weight, None)).all()


def test_dead_rows_and_columns_have_score_zero_in_ria(weight, x):
    dead = weight.clone()
    dead[3], dead[:, 5] = 0, 0
    found = scored(RIA(), dead, x)
    assert np.isfinite(found).all()
    assert not found[3].any()
    assert not found[:, 5].any()


@pytest.mark.parametrize(("scale", "tokens"), [("wanda2048", 2048), ("rms", 1), ("sum", SEQUENCES * LENGTH)])
@pytest.mark.parametrize(("alpha", "share"), [(1.0, 1.0), (0.3, 2.0), (0.0, 1.0), (2.0, 0.0)])
def test_esparse_adds_entropy_and_norm(weight, x, scale, tokens, alpha, share):
    score = ESparse(alpha=alpha, entropy_weight=share, bins=BINS, norm_scale=scale)
    importance = share * entropy(x) + alpha * np.sqrt(tokens * mean_square(x))
    np.testing.assert_allclose(scored(score, weight, x), np.abs(weight.double().numpy()) * importance, rtol=1e-4)


def test_without_entropy_none_is_gathered():
    assert ESparse(entropy_weight=0).required.kinds == {"norm"}


def test_the_logarithms_base(weight, x):
    found = scored(ESparse(alpha=0, bins=BINS, log_base=2), weight, x)
    np.testing.assert_allclose(found, np.abs(weight.double().numpy()) * entropy(x) / math.log(2), rtol=1e-4)


def test_entropy_may_multiply_the_norm(weight, x):
    found = scored(ESparse(bins=BINS, combine="multiply"), weight, x)
    wanted = np.abs(weight.double().numpy()) * entropy(x) * np.sqrt(2048 * mean_square(x))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("length", [16, 2048])
def test_channels_without_entropy_reduce_esparse_to_wanda(weight, length):
    x = torch.linspace(0.1, 3, COLUMNS).expand(2, length, COLUMNS)
    esparse, wanda = scored(ESparse(), weight, x), scored(Wanda(), weight, x)
    np.testing.assert_allclose(esparse, wanda * math.sqrt(2048 / length), rtol=1e-4)


def test_a_large_alpha_reduces_esparse_to_wanda(weight, x):
    esparse, wanda = scored(ESparse(alpha=1e6), weight, x), scored(Wanda(), weight, x)
    assert (nm_by_hand(esparse, 2, 4) == nm_by_hand(wanda, 2, 4)).all()
    assert (nm_by_hand(scored(ESparse(alpha=0.1), weight, x), 2, 4) != nm_by_hand(wanda, 2, 4)).any()


def test_equal_norms_and_entropies_reduce_esparse_to_magnitude(weight):
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(100, generator=draw)
    x = torch.stack([values[torch.randperm(100, generator=draw)] for _ in range(COLUMNS)], dim=1)[None]
    esparse = scored(ESparse(), weight, x)
    ratio = esparse / np.abs(weight.numpy())
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"histogram_range": "row"},
            r"method\.score\.histogram_range=row is unknown; choose from channel, layer, quantile",
        ),
        ({"norm_scale": "l2"}, r"method\.score\.norm_scale=l2 is unknown; choose from wanda2048, rms, sum"),
        ({"combine": "max"}, r"method\.score\.combine=max is unknown; choose from add, multiply"),
        ({"bins": 1}, r"method\.score\.bins must be at least 2, got 1"),
        ({"log_base": "two"}, r"method\.score\.log_base must be e or a number above 1, got two"),
        ({"log_base": 0}, r"method\.score\.log_base"),
        ({"log_base": 1}, r"method\.score\.log_base"),
        ({"alpha": -1.0}, r"method\.score\.alpha must not be negative"),
        ({"alpha": 0.0, "entropy_weight": 0.0}, "are both 0: every score would be 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ESparse(**arguments)
