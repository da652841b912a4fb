"""SparseGPT's updates, against the optimal brain surgeon's formula with plain inverses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.esparse.input_statistics import InputStatistics
from methods.esparse.patterns import NM, Pattern, Unstructured
from methods.esparse.sparsegpt import OBSUpdate, inverse_cholesky
from tests.methods.esparse.reference import nm_by_hand, sparsegpt_by_hand

ROWS, COLUMNS, TOKENS = 7, 24, 200


class OBS(OBSUpdate):
    """The update, called with the Hessian itself."""

    def __call__(
        self, weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern, mask: torch.Tensor | None
    ) -> torch.Tensor:
        return super().__call__(weight, self.factorise(hessian), pattern, mask)


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Correlated inputs: without correlations there is nothing to make up for."""
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(TOKENS, COLUMNS, generator=draw) @ torch.randn(COLUMNS, COLUMNS, generator=draw)
    return mixed.double()


@pytest.fixture(scope="module")
def hessian(x) -> torch.Tensor:
    return 2 * x.T @ x


def test_the_factor_is_that_of_the_damped_inverse(hessian):
    factor = inverse_cholesky(hessian, 0.1)
    upper = factor.upper
    damped = hessian.numpy() + 0.1 * np.diag(hessian).mean() * np.eye(COLUMNS)
    assert not factor.dead.any()
    assert torch.equal(upper, upper.triu())
    np.testing.assert_allclose(upper.T @ upper, np.linalg.inv(damped), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("pattern", [Unstructured(0.0), Unstructured(0.5), NM(2, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_pruned_stays(weight, hessian, pattern, dtype):
    kept = None if pattern == Unstructured(0.0) else torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    before, weight = hessian.clone(), weight.float()
    assert torch.equal(OBS(block_size=8, dtype=dtype)(weight, hessian, pattern, kept), weight)
    assert torch.equal(hessian, before)


@pytest.mark.parametrize("q", [0, 1, 9, COLUMNS - 1])
def test_one_weight_less_is_made_up_for_by_those_on_its_right(weight, hessian, q):
    """The optimal brain surgeon's w - w_q / inv(H)_qq inv(H)_q; columns on the left are done, and out of H."""
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    mask[2, q] = False
    found = OBS(block_size=8, damping=0.05)(weight, hessian, Unstructured(0.5), mask)
    damped = hessian.numpy() + 0.05 * np.diag(hessian).mean() * np.eye(COLUMNS)
    inverse = np.linalg.inv(damped[q:, q:])
    wanted = weight.numpy().copy()
    wanted[2, q:] -= wanted[2, q] / inverse[0, 0] * inverse[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    assert found[2, q] == 0


@pytest.mark.parametrize(("remove", "of"), [(2, 4), (4, 8), (3, 4), (5, 6)])
@pytest.mark.parametrize("block", [24, 48])
def test_nm_is_that_of_a_slow_reimplementation(weight, hessian, remove, of, block):
    found = OBS(block_size=block)(weight, hessian, NM(of - remove, of), None)
    wanted = sparsegpt_by_hand(weight.numpy(), hessian.numpy(), remove, of, damping=0.01)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)
    assert ((found == 0).view(ROWS, -1, of).sum(2) == remove).all()


@pytest.mark.parametrize("block", [4, 8, 12, 16, 20])
@pytest.mark.parametrize("given_mask", [True, False])
def test_the_blocks_do_not_matter(weight, hessian, block, given_mask):
    mask = torch.from_numpy(nm_by_hand(weight.abs().numpy(), 2, 4)) if given_mask else None
    found = OBS(block_size=block)(weight, hessian, NM(2, 4), mask)
    wanted = sparsegpt_by_hand(
        weight.numpy(), hessian.numpy(), 2, 4, damping=0.01, mask=None if mask is None else mask.numpy()
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)
    if given_mask:
        assert torch.equal(found != 0, mask)


@pytest.mark.parametrize("block", [5, 24])
def test_unstructured_a_blocks_threshold_decides_before_its_updates(weight, hessian, block):
    damped = hessian.numpy() + 0.01 * np.diag(hessian).mean() * np.eye(COLUMNS)
    inverses = [np.linalg.inv(damped[q:, q:]) for q in range(COLUMNS)]
    wanted = weight.numpy().copy()
    for start in range(0, COLUMNS, block):
        part = slice(start, min(start + block, COLUMNS))
        loss = wanted[:, part] ** 2 / np.array([inverses[q][0, 0] for q in range(part.start, part.stop)])
        kept = loss > np.sort(loss.flatten())[int(loss.size * 0.6)]
        for q in range(part.start, part.stop):
            for r in np.flatnonzero(~kept[:, q - part.start]):
                wanted[r, q:] -= wanted[r, q] / inverses[q][0, 0] * inverses[q][0]
                wanted[r, q] = 0
    found = OBS(block_size=block)(weight, hessian, Unstructured(0.6), None)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(4, 8), Unstructured(0.5)])
def test_the_update_lowers_the_output_error(weight, x, hessian, pattern):
    mask = pattern.mask(weight.abs())
    updated = OBS(block_size=8)(weight, hessian, pattern, mask)
    error, before = ((x @ (weight - w).T).square().sum(1).mean() for w in (updated, weight * mask))
    assert torch.equal(updated != 0, mask)
    assert error < 0.95 * before


def test_columns_that_fill_no_group_stay_but_take_over(weight, hessian):
    found = OBS(block_size=10)(weight, hessian, NM(2, 5, allow_remainder=True), None)
    assert ((found[:, :20] == 0).view(ROWS, 4, 5).sum(2) == 3).all()
    assert (found[:, 20:] != 0).all()
    wanted = sparsegpt_by_hand(weight.numpy(), hessian.numpy(), 3, 5, damping=0.01)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


def test_dead_channels_have_no_weights(weight, x):
    x = x.clone()
    x[:, [4, 5, 6, 17]] = 0  # 2:4 alone would keep one of three
    found = OBS(block_size=8)(weight, 2 * x.T @ x, NM(2, 4), None)
    assert torch.isfinite(found).all()
    assert not found[:, [4, 5, 6, 17]].any()
    wanted = sparsegpt_by_hand(weight.numpy(), (2 * x.T @ x).numpy(), 2, 4, damping=0.01)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


def test_the_weights_own_dtype_is_given_back(weight, hessian):
    found = OBS(block_size=8)(weight.bfloat16(), hessian, NM(2, 4), None)
    assert found.dtype == torch.bfloat16
    assert ((found == 0).view(ROWS, -1, 4).sum(2) == 2).all()


def test_scores_are_the_criterion_on_weights_as_they_are(weight, x):
    statistics = InputStatistics(OBSUpdate.required)
    statistics.add(x[None].float())
    hessian = (2 * x.T @ x).numpy()
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(COLUMNS)
    spread = np.array([np.linalg.inv(damped[q:, q:])[0, 0] for q in range(COLUMNS)])
    np.testing.assert_allclose(OBS().criteria([weight], statistics)[0], weight.numpy() ** 2 / spread, rtol=1e-3)


def test_too_few_tokens_without_damping_is_one_message(weight, x):
    few = x[:3]
    with pytest.raises(ValueError, match=r"not positive definite with method\.weight_update\.damping=0"):
        OBS(damping=0.0)(weight, -(2 * few.T @ few), NM(2, 4), None)
    assert torch.isfinite(OBS(damping=0.01)(weight, 2 * few.T @ few, NM(2, 4), None)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 0}, r"method\.weight_update\.block_size must be positive"),
        ({"damping": -0.1}, "damping must not be negative"),
        ({"dtype": "float16"}, r"method\.weight_update\.dtype=float16 is unknown; choose from float32, float64"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        OBS(**arguments)


def test_a_block_must_hold_whole_groups(weight, hessian):
    with pytest.raises(ValueError, match=r"method\.weight_update\.block_size=10 is not a multiple of 4"):
        OBS(block_size=10)(weight, hessian, NM(2, 4), None)
