"""Compressed 2:4 weights: round trips and the layout of the bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.esparse.compression import check_2to4, compress, compressed_bytes, decompress, matrix_bytes
from methods.esparse.patterns import NM

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def pruned(rows: int, columns: int, dtype: torch.dtype, seed: int, zeros: float = 0.0, shuffled: bool = False):
    """A random 2:4 weight with a share `zeros` of more zeros, in natural order, and its permutation."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    weight = weight * NM(2, 4).mask(torch.rand(rows, columns, generator=generator))
    weight = weight * (torch.rand(rows, columns, generator=generator) >= zeros)
    if not shuffled:
        return weight, None
    permutation = torch.randperm(columns, generator=generator)
    return torch.empty_like(weight).index_copy_(1, permutation, weight), permutation


@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
    shuffled=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_round_trip(rows, groups, dtype, zeros, shuffled, seed):
    weight, permutation = pruned(rows, 4 * groups, dtype, seed, zeros, shuffled)
    parts = compress(weight, permutation)
    assert torch.equal(decompress(parts), weight)
    assert parts["values"].shape == (rows, 2 * groups)
    assert parts["values"].dtype == dtype
    assert parts["indices"].shape == (rows, (groups + 1) // 2)
    assert parts["indices"].dtype == torch.uint8
    assert ("permutation" in parts) == shuffled
    stored = compressed_bytes(parts) - 4 * 4 * groups * shuffled
    assert stored == matrix_bytes(rows, 4 * groups, weight.element_size())


@given(st.lists(st.sampled_from([0.0, 0.0, 1.5, -2.0]), min_size=20, max_size=20))
def test_packing_of_one_row_by_hand(row):
    for start in range(0, 20, 4):
        kept = [i for i in range(start, start + 4) if row[i]][:2]
        row[start : start + 4] = [row[i] if i in kept else 0.0 for i in range(start, start + 4)]
    values, packed = [], [0, 0, 0]
    for group in range(5):
        four = row[4 * group : 4 * group + 4]
        places = [i for i in range(4) if four[i]]
        places += [i for i in range(4) if not four[i]][: 2 - len(places)]
        first, second = sorted(places)
        values += [four[first], four[second]]
        packed[group // 2] |= (first + 4 * second) << (4 * (group % 2))
    parts = compress(torch.tensor([row]))
    assert parts["values"].tolist() == [values]
    assert parts["indices"].tolist() == [packed]


def test_places_within_a_group_are_distinct():
    weight = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 5.0], [5.0, 0, 0, 0, 0, 5.0, 0, 0]])
    indices = compress(weight)["indices"]
    halves = torch.stack([indices & 15, indices >> 4])
    assert (halves & 3 < halves >> 2).all()


def test_values_that_are_not_finite_and_parameters_with_gradients_are_kept():
    weight = torch.nn.Parameter(torch.tensor([[float("inf"), 0, float("nan"), 0]]))
    parts = compress(weight)
    assert not parts["values"].requires_grad
    torch.testing.assert_close(decompress(parts), weight.detach(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float16, 4.5 / 8), (torch.bfloat16, 4.5 / 8), (torch.float32, 0.53125)]
)
def test_size(dtype, share):
    weight, _ = pruned(16, 64, dtype, seed=0)
    assert compressed_bytes(compress(weight)) == share * weight.numel() * weight.element_size()


def test_more_than_two_non_zeros_are_refused_by_row_and_group():
    weight = torch.zeros(3, 12)
    weight[1, 4:8] = torch.tensor([1.0, 0.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"row 1 has 3 non-zeros in group 1 \(columns 4 to 7\)"):
        compress(weight)
    spread = torch.tensor([4, 0, 1, 2, 5, 6, 3, 8, 7, 9, 10, 11])
    assert torch.equal(decompress(compress(weight, spread)), weight)
    with pytest.raises(ValueError, match="q_proj is not 2:4: row 1"):
        check_2to4(weight, name="q_proj")
    check_2to4(weight, spread)


def test_a_weight_pruned_in_shuffled_order_is_refused_without_its_permutation():
    weight, permutation = pruned(8, 32, torch.float32, seed=0, shuffled=True)
    check_2to4(weight, permutation)
    with pytest.raises(ValueError, match="is not 2:4"):
        compress(weight)


@pytest.mark.parametrize("shape", [(2, 6), (8,), (2, 4, 4)])
def test_shapes_without_groups_are_refused(shape):
    with pytest.raises(ValueError, match="groups of four"):
        compress(torch.zeros(shape))


@pytest.mark.parametrize("permutation", [[0, 1, 2, 2], [0, 1, 2], [1, 2, 3, 4]])
def test_what_is_no_permutation_is_refused(permutation):
    with pytest.raises(ValueError, match="permutation"):
        compress(torch.zeros(2, 4), torch.tensor(permutation))


def test_parts_that_do_not_fit_are_refused():
    parts = compress(torch.zeros(2, 16))
    with pytest.raises(ValueError, match="do not belong to one matrix"):
        decompress(parts | {"indices": parts["indices"][:, :1]})
