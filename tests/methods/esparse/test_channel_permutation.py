"""RIA's channel permutation, against its definition and brute force over all assignments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from methods.esparse.channel_permutation import ChannelPermutation, assign_positions
from tests.methods.esparse.reference import kept_by_hand

PATTERNS = st.sampled_from([(2, 4), (1, 4), (4, 8), (1, 2)])  # kept, of


def random_scores(rows: int, columns: int, seed: int) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy((draw.random((rows, columns)) ** 2 * draw.uniform(0.2, 3, columns)).astype(np.float32))


def test_channels_are_dealt_in_a_snake_from_the_poorest():
    sums = torch.tensor([3.0, 9, 1, 7, 5, 8, 2, 6, 4, 0, 11, 10])  # rising: 9 2 6 0 8 4 7 3 5 1 11 10
    dealt = ChannelPermutation(linear_sum_assignment=False)(torch.stack([sums, sums]), 2, 4)
    assert dealt.tolist() == [9, 4, 7, 10, 2, 8, 3, 11, 6, 0, 5, 1]


@settings(max_examples=40)
@given(
    pattern=PATTERNS, rows=st.integers(1, 5), groups=st.integers(1, 7), parts=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_it_is_a_bijection_that_keeps_no_less_than_the_snake(pattern, rows, groups, parts, seed):
    keep, of = pattern
    scores = random_scores(rows, groups * of, seed)
    before = scores.clone()
    dealt = ChannelPermutation(linear_sum_assignment=False)(scores, keep, of)
    end = ChannelPermutation(assignment_blocks=parts)(scores, keep, of)
    assert torch.equal(scores, before)
    assert sorted(end.tolist()) == sorted(dealt.tolist()) == list(range(groups * of))
    kept = kept_by_hand(scores.numpy()[:, end], keep, of)
    assert kept >= kept_by_hand(scores.numpy()[:, dealt], keep, of) * (1 - 1e-6)


@settings(max_examples=15)
@given(pattern=PATTERNS, groups=st.integers(2, 4), seed=st.integers(0, 99))
def test_each_place_is_assigned_as_well_as_can_be(pattern, groups, seed):
    keep, of = pattern
    scores = random_scores(24, groups * of, seed)
    order = np.arange(groups * of)
    for place in range(of):
        options = []
        for newcomers in itertools.permutations(order[place::of]):
            option = order.copy()
            option[place::of] = newcomers
            options.append(option)
        retained = [kept_by_hand(scores.numpy()[:, option], keep, of) for option in options]
        second, best = sorted(retained)[-2:]
        assume(best - second > 1e-5 * best)  # else rounding decides, and the later positions start from another order
        order = options[retained.index(best)]
    found = assign_positions(scores.T.contiguous(), keep, of)
    kept = kept_by_hand(scores.numpy()[:, found], keep, of)
    assert kept == pytest.approx(kept_by_hand(scores.numpy()[:, order], keep, of), rel=1e-6)


def test_an_assignment_that_gains_nothing_moves_nothing():
    assert assign_positions(torch.ones(12, 3), 2, 4).tolist() == list(range(12))


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_of_the_groups_are_solved_apart(parts):
    scores = random_scores(4, 28, seed=1)  # seven groups
    dealt = ChannelPermutation(linear_sum_assignment=False)(scores, 2, 4)
    end = ChannelPermutation(assignment_blocks=parts)(scores, 2, 4)
    size = -(-7 // parts) * 4
    for first in range(0, 28, size):
        part = slice(first, first + size)
        assert set(dealt[part].tolist()) == set(end[part].tolist())


def test_parts_must_be_positive():
    with pytest.raises(ValueError, match=r"method\.permutation\.assignment_blocks must be positive, got 0"):
        ChannelPermutation(assignment_blocks=0)
