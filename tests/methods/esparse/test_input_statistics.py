"""Statistics of inputs, against the running updates of the published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.esparse.input_statistics import InputStatistics, RequiredStatistics, record_inputs

BATCHES = [(1, 5), (3, 5), (2, 7), (1, 1)]  # sequences, tokens of each


def batches(channels: int = 6, seed: int = 0, sizes=BATCHES) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(b, length, channels) * torch.linspace(0.1, 4, channels) for b, length in sizes]


def gathered(kinds: set[str], inputs: list[torch.Tensor], **settings) -> InputStatistics:
    statistics = InputStatistics(RequiredStatistics(frozenset(kinds)), **settings)
    for x in inputs:
        statistics.add(x)
    return statistics


def test_the_norm_is_wandas_running_mean():
    n, scaler = 0, np.zeros(6)
    for x in batches():
        b = x.shape[0]
        scaler *= n / (n + b)
        n += b
        scaler += (x.reshape(-1, 6).double().numpy() ** 2).sum(0) / n
    found = gathered({"norm"}, batches())
    np.testing.assert_allclose(found.sum_squares / found.sequences, scaler, rtol=1e-5)
    assert (found.sequences, found.tokens) == (7, 35)


def test_the_hessian_is_sparsegpts_running_mean():
    n, hessian = 0, np.zeros((6, 6))
    for x in batches():
        b = x.shape[0]
        hessian *= n / (n + b)
        n += b
        columns = np.sqrt(2 / n) * x.reshape(-1, 6).double().numpy().T
        hessian += columns @ columns.T
    found = gathered({"hessian"}, batches())
    np.testing.assert_allclose(found.permuted_hessian(torch.arange(6)), hessian, rtol=1e-5, atol=1e-5)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    permuted = [x[..., order] for x in batches()]
    torch.testing.assert_close(
        found.permuted_hessian(order),
        gathered({"hessian"}, permuted).permuted_hessian(torch.arange(6)),
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_mean_square_is_that_over_tokens():
    x = torch.cat([x.reshape(-1, 6) for x in batches()])
    torch.testing.assert_close(gathered({"norm"}, batches()).mean_square, x.square().mean(0))


@settings(max_examples=25)
@given(sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=5))
def test_how_the_inputs_are_cut_does_not_matter(sizes):
    inputs = batches(sizes=sizes)
    whole = torch.cat([x.reshape(-1, 6) for x in inputs])
    parts, one = gathered({"norm", "hessian"}, inputs), gathered({"norm", "hessian"}, [whole])
    assert parts.tokens == one.tokens
    torch.testing.assert_close(parts.sum_squares, one.sum_squares)
    torch.testing.assert_close(parts.hessian, one.hessian, rtol=1e-5, atol=1e-5)


def test_two_dimensions_are_one_sequence():
    found = gathered({"norm"}, [torch.ones(5, 3), torch.ones(2, 4, 3)])
    assert (found.sequences, found.tokens) == (3, 13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_do_not_overflow(dtype):
    x = torch.full((1, 300, 2), 3e4).to(dtype)
    found = gathered({"norm", "hessian"}, [x])
    assert found.sum_squares.dtype == torch.float32
    expected = 300 * x[0, 0, 0].double().item() ** 2
    np.testing.assert_allclose(found.sum_squares, [expected] * 2, rtol=1e-5)
    np.testing.assert_allclose(found.hessian, np.full((2, 2), expected), rtol=1e-5)


@pytest.mark.parametrize("keep", [True, False])
def test_inputs_are_neither_changed_nor_held_on_to(keep):
    """A layer still computes with them after they were looked at, and may write over them."""
    x = batches()[1]
    before = x.clone()
    statistics = InputStatistics(RequiredStatistics(frozenset({"norm", "hessian", "entropy"}), bins=8), keep)
    statistics.add(x)
    if statistics.keep_inputs:
        x.zero_()
    if statistics.end_pass():
        statistics.add(x)
        statistics.end_pass()
        assert torch.equal(x, before)
    counts = [np.histogram(column, bins=8)[0] for column in before.reshape(-1, 6).T.numpy()]
    assert statistics.counts.tolist() == np.array(counts).tolist()
    assert not statistics.inputs


def test_what_is_not_needed_is_not_gathered():
    found = gathered(set(), batches())
    assert (found.sum_squares, found.hessian, found.low, found.inputs) == (None, None, None, [])
    assert not found.end_pass()


def test_inputs_of_each_layer_are_recorded_until_the_context_ends():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    statistics = [InputStatistics(RequiredStatistics(frozenset({"norm"}))) for _ in range(2)]
    x = torch.randn(2, 5, 4)
    with record_inputs([(model[0], statistics[0]), (model[2], statistics[1])]):
        model(x)
    model(x)
    hidden = model[:2](x)
    assert [s.tokens for s in statistics] == [10, 10]
    torch.testing.assert_close(statistics[0].sum_squares, x.square().sum((0, 1)))
    torch.testing.assert_close(statistics[1].sum_squares, hidden.square().sum((0, 1)))


def test_recording_ends_after_an_error_too():
    layer, statistics = nn.Linear(4, 3), InputStatistics(RequiredStatistics(frozenset({"norm"})))
    with pytest.raises(RuntimeError), record_inputs([(layer, statistics)]):
        layer(torch.randn(2, 5))
    layer(torch.randn(2, 4))
    assert statistics.tokens <= 2
