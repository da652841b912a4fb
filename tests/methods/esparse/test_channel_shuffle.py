"""E-Sparse's channel shuffles, against their definition and brute force over all swaps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.esparse.channel_shuffle import (
    ChannelShuffle,
    SwapGains,
    best_disjoint_swaps,
    best_of_groups,
    global_naive_shuffle,
    local_block_shuffle,
)
from methods.esparse.group_ranking import removal_at, removal_statistics, retained_score, sums_of_maxima
from tests.methods.esparse.reference import kept_by_hand

PATTERNS = st.sampled_from([(2, 4), (1, 4), (3, 4), (4, 8), (1, 2), (2, 5)])  # kept, of


def whole_scores(rows: int, columns: int, seed: int, most: int = 50) -> torch.Tensor:
    """Whole numbers, whose sums are exact in float32; columns differ in size, as channels do."""
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, most, size=(rows, columns)) * draw.integers(1, 6, size=columns)
    return torch.from_numpy(scores.astype(np.float32))


def best_gain(scores: np.ndarray, permutation: np.ndarray, keep: int, of: int, block: int) -> float:
    """The largest gain of any swap of two columns of different groups of one block."""
    now, best = kept_by_hand(scores[:, permutation], keep, of), -np.inf
    for p, q in itertools.combinations(range(len(permutation)), 2):
        if p // of != q // of and p // block == q // block:
            swapped = permutation.copy()
            swapped[[p, q]] = swapped[[q, p]]
            best = max(best, kept_by_hand(scores[:, swapped], keep, of) - now)
    return best


@given(pattern=PATTERNS, rows=st.integers(1, 5), groups=st.integers(1, 5), seed=st.integers(0, 99))
def test_retained_is_what_nm_keeps(pattern, rows, groups, seed):
    keep, of = pattern
    scores = whole_scores(rows, groups * of, seed)
    permutation = torch.randperm(groups * of, generator=torch.Generator().manual_seed(seed))
    assert retained_score(scores, permutation, keep, of) == kept_by_hand(scores.numpy()[:, permutation], keep, of)


def test_gns_deals_ranks_to_the_groups_in_turn():
    means = torch.tensor([3.0, 9, 1, 7, 5, 8, 2, 6, 4, 0, 11, 10])  # ranks: 10 11 1 5 3 7 4 8 0 6 2 9
    scores = torch.stack([means, 3 * means])
    assert global_naive_shuffle(scores, 4).tolist() == [10, 5, 4, 6, 11, 3, 8, 2, 1, 7, 0, 9]
    assert global_naive_shuffle(scores, 4, "snake").tolist() == [10, 7, 4, 9, 11, 3, 8, 2, 1, 5, 0, 6]


@given(of=st.sampled_from([2, 4, 8]), groups=st.integers(1, 8), seed=st.integers(0, 99))
def test_gns_gives_group_g_the_ranks_g_and_every_further_number_of_groups(of, groups, seed):
    scores = whole_scores(3, groups * of, seed)
    ranked = sorted(range(groups * of), key=lambda j: (-scores[:, j].mean().item(), j))
    strided = [ranked[g + turn * groups] for g in range(groups) for turn in range(of)]
    assert global_naive_shuffle(scores, of).tolist() == strided
    snake = [ranked[turn * groups + (groups - 1 - g if turn % 2 else g)] for g in range(groups) for turn in range(of)]
    assert global_naive_shuffle(scores, of, "snake").tolist() == snake


@settings(max_examples=60)
@given(
    pattern=PATTERNS,
    rows=st.integers(1, 6),
    groups=st.integers(1, 7),
    gns=st.booleans(),
    lbs=st.booleans(),
    order=st.sampled_from(["strided", "snake"]),
    block=st.integers(1, 40),
    sampled=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_a_shuffle_is_a_bijection(pattern, rows, groups, gns, lbs, order, block, sampled, seed):
    keep, of = pattern
    shuffle = ChannelShuffle(gns=gns, lbs=lbs, gns_order=order, block_size=block, max_rows=sampled)
    scores = torch.rand(rows, groups * of, generator=torch.Generator().manual_seed(seed))
    before = scores.clone()
    assert sorted(shuffle(scores, keep, of).tolist()) == list(range(groups * of))
    assert torch.equal(scores, before)


def test_without_gns_and_lbs_nothing_moves():
    assert ChannelShuffle(gns=False, lbs=False)(torch.rand(3, 8), 2, 4).tolist() == list(range(8))


@settings(max_examples=60)
@given(pattern=PATTERNS, rows=st.integers(1, 6), groups=st.integers(1, 4), seed=st.integers(0, 999))
def test_the_gain_of_a_swap_is_what_it_adds_to_the_kept_score(pattern, rows, groups, seed):
    keep, of = pattern
    scores = whole_scores(rows, groups * of, seed, most=4 if seed % 2 else 50)
    gains = SwapGains(scores.T.contiguous(), keep, of).matrix()
    now = kept_by_hand(scores.numpy(), keep, of)
    for p, q in itertools.product(range(groups * of), repeat=2):
        if p // of == q // of:
            assert gains[p, q] == -torch.inf
            continue
        swapped = scores.numpy().copy()
        swapped[:, [p, q]] = swapped[:, [q, p]]
        assert gains[p, q] == kept_by_hand(swapped, keep, of) - now


@settings(max_examples=60)
@given(pattern=PATTERNS, rows=st.integers(1, 6), groups=st.integers(1, 4), seed=st.integers(0, 999))
def test_a_newcomer_adds_what_exceeds_the_threshold(pattern, rows, groups, seed):
    keep, of = pattern
    columns = whole_scores(rows, groups * of, seed, most=4 if seed % 2 else 50).T.contiguous()
    thresholds, without, retained = removal_statistics(columns, keep, of, torch.arange(groups))
    newcomer = np.random.default_rng(seed).integers(0, 99, size=rows)
    for column in range(groups * of):
        group = columns[column // of * of :][:of].T.numpy().copy()  # (R, M)
        assert retained[column // of] == kept_by_hand(group, keep, of)
        group[:, column % of] = newcomer
        added = np.maximum(newcomer - thresholds[column].numpy(), 0).sum()
        assert without[column] + added == kept_by_hand(group, keep, of)
    for position in range(of):
        there, rest = removal_at(columns, keep, of, position)
        assert torch.equal(there, thresholds[position::of])
        assert torch.equal(rest, without[position::of])


@settings(max_examples=60)
@given(pattern=PATTERNS, rows=st.integers(1, 6), groups=st.integers(2, 6), seed=st.integers(0, 999))
def test_the_best_swap_of_two_groups_has_the_largest_gain_of_all(pattern, rows, groups, seed):
    keep, of = pattern
    scores = whole_scores(rows, groups * of, seed, most=4 if seed % 2 else 50)
    state = SwapGains(scores.T.contiguous(), keep, of)
    now = kept_by_hand(scores.numpy(), keep, of)
    for best, where in (state.best_of_groups(), best_of_groups(state.matrix(), of)):
        for g, h in itertools.product(range(groups), repeat=2):
            if g >= h:
                assert best[g, h] == -torch.inf
                continue
            i, j = divmod(where[g, h].item(), of)
            swapped = scores.numpy().copy()
            swapped[:, [g * of + i, h * of + j]] = swapped[:, [h * of + j, g * of + i]]
            assert best[g, h] == kept_by_hand(swapped, keep, of) - now
            assert best[g, h] == state.matrix()[g * of : (g + 1) * of, h * of : (h + 1) * of].max()


@settings(max_examples=40)
@given(pattern=PATTERNS, rows=st.integers(1, 6), groups=st.integers(2, 6), seed=st.integers(0, 999))
def test_after_swaps_the_state_is_that_of_a_fresh_one(pattern, rows, groups, seed):
    keep, of = pattern
    scores = whole_scores(rows, groups * of, seed)
    state, order = SwapGains(scores.T.contiguous(), keep, of), torch.arange(groups * of)
    draw = np.random.default_rng(seed)
    for _ in range(3):
        pairs = draw.permutation(groups)[: groups // 2 * 2].reshape(-1, 2)  # disjoint pairs of groups
        pairs = pairs[: draw.integers(1, len(pairs) + 1)]
        p, q = torch.from_numpy(pairs.T * of + draw.integers(of, size=(2, len(pairs))))
        state.swap(p, q)
        order[torch.cat([p, q])] = order[torch.cat([q, p])]
        fresh = SwapGains(scores[:, order].T.contiguous(), keep, of)
        assert torch.equal(state.columns, scores[:, order].T)
        assert torch.equal(state.matrix(), fresh.matrix())
        assert torch.equal(state.retained, fresh.retained)


@pytest.mark.parametrize("of", [32, 128, 160])
def test_groups_may_be_large(of):
    scores = whole_scores(2, 2 * of, seed=0) + 1
    state = SwapGains(scores.T.contiguous(), of // 2, of)
    assert state.retained[::of].sum() == kept_by_hand(scores.numpy(), of // 2, of)


@settings(max_examples=60)
@given(
    pattern=PATTERNS,
    rows=st.integers(1, 6),
    groups=st.integers(1, 6),
    gns=st.booleans(),
    block=st.integers(2, 30),
    rounds=st.integers(0, 3),
    sweeps=st.integers(1, 8),
    seed=st.integers(0, 999),
)
def test_lbs_never_lowers_the_kept_score(pattern, rows, groups, gns, block, rounds, sweeps, seed):
    keep, of = pattern
    scores = whole_scores(rows, groups * of, seed)
    start = global_naive_shuffle(scores, of) if gns else torch.arange(groups * of)
    untouched = start.clone()
    end = local_block_shuffle(scores, start, keep, of, block_size=block, assignment_rounds=rounds, max_sweeps=sweeps)
    assert torch.equal(start, untouched)
    before, after = (kept_by_hand(scores.numpy()[:, p], keep, of) for p in (start, end))
    assert after >= before
    if (start != end).any():
        assert after > before


@settings(max_examples=40)
@given(rows=st.integers(1, 40), groups=st.integers(2, 10), seed=st.integers(0, 999))
def test_lbs_never_lowers_the_kept_score_of_real_numbers_either(rows, groups, seed):
    scores = torch.rand(rows, groups * 4, generator=torch.Generator().manual_seed(seed)) ** 3
    start = torch.arange(groups * 4)
    end = local_block_shuffle(scores, start, 2, 4)
    assert kept_by_hand(scores.numpy()[:, end], 2, 4) >= kept_by_hand(scores.numpy(), 2, 4)


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_assignments_lead_the_swaps_to_an_optimum_that_is_as_good(pattern, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(192, 256, generator=draw).abs() * torch.randn(256, generator=draw).exp()
    shuffles = [ChannelShuffle(lbs=False), ChannelShuffle(assignment_rounds=0), ChannelShuffle(assignment_rounds=2)]
    start, swaps, both = (kept_by_hand(scores.numpy()[:, shuffle(scores, *pattern)], *pattern) for shuffle in shuffles)
    assert both - start > 0.9 * (swaps - start)


@settings(max_examples=25)
@given(pattern=PATTERNS, rows=st.integers(1, 5), groups=st.integers(2, 4), seed=st.integers(0, 999))
def test_lbs_goes_on_until_no_swap_helps(pattern, rows, groups, seed):
    keep, of = pattern
    scores = whole_scores(rows, groups * of, seed)
    block = 2 * of
    end = local_block_shuffle(
        scores, torch.arange(groups * of), keep, of, block_size=block, max_sweeps=50, tolerance=0.0
    )
    assert best_gain(scores.numpy(), end.numpy(), keep, of, block) <= 0


@settings(max_examples=25)
@given(block=st.sampled_from([8, 11, 12, 16, 40]), seed=st.integers(0, 999))
def test_lbs_stays_inside_its_blocks(block, seed):
    scores = whole_scores(4, 32, seed)
    start = torch.randperm(32, generator=torch.Generator().manual_seed(seed))
    end = local_block_shuffle(scores, start, 2, 4, block_size=block)
    width = block // 4 * 4
    for first in range(0, 32, width):
        assert set(start[first : first + width].tolist()) == set(end[first : first + width].tolist())


def test_lbs_finds_the_best_of_an_easy_case():
    scores = torch.tensor([[9.0, 8, 7, 6, 1, 1, 1, 1]])  # two of the four large ones go at first
    assert retained_score(scores, torch.arange(8), 2, 4) == 19
    end = ChannelShuffle(gns=False, max_rows=None)(scores.repeat(3, 1), 2, 4)
    assert retained_score(scores, end, 2, 4) == 30


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_lbs_on_some_rows_does_not_lower_their_kept_score(rows):
    scores = whole_scores(9, 32, seed=3)
    some = scores[np.linspace(0, 8, rows).astype(int)].numpy()
    end = local_block_shuffle(scores, torch.arange(32), 2, 4, max_rows=rows)
    assert kept_by_hand(some[:, end], 2, 4) > kept_by_hand(some, 2, 4)


@given(n=st.integers(1, 5), m=st.integers(1, 5), length=st.integers(1, 20), seed=st.integers(0, 99))
def test_sums_of_maxima(n, m, length, seed):
    draw = np.random.default_rng(seed)
    a, b = (draw.integers(-9, 9, size=(k, length)).astype(np.float32) for k in (n, m))
    found = sums_of_maxima(torch.from_numpy(a), torch.from_numpy(b))
    assert found.tolist() == np.maximum(a[:, None], b[None]).sum(2).tolist()


@given(of=st.sampled_from([2, 4]), groups=st.integers(2, 6), limit=st.floats(-0.5, 1.5), seed=st.integers(0, 999))
def test_best_disjoint_walks_all_pairs_by_gain(of, groups, limit, seed):
    limit = max(limit, 0.0)
    m = groups * of
    gain = torch.randn(m, m, generator=torch.Generator().manual_seed(seed))
    gain = gain + gain.T
    group = torch.arange(m) // of
    gain[group[:, None] == group[None]] = -torch.inf
    wanted, used = [], set()
    for p, q in sorted(itertools.combinations(range(m), 2), key=lambda pq: -gain[pq].item()):
        if gain[p, q] > limit and not used & {p // of, q // of}:
            used |= {p // of, q // of}
            wanted.append((p, q))
    p, q = best_disjoint_swaps(*best_of_groups(gain, of), of, limit)
    assert list(zip(p.tolist(), q.tolist(), strict=True)) == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gns_order": "random"}, r"method\.permutation\.gns_order=random is unknown; choose from strided, snake"),
        ({"block_size": 0}, r"method\.permutation\.block_size must be positive, got 0"),
        ({"max_sweeps": 0}, r"method\.permutation\.max_sweeps must be positive"),
        ({"assignment_rounds": -1}, r"method\.permutation\.assignment_rounds must not be negative, got -1"),
        ({"max_rows": -1}, r"method\.permutation\.max_rows must be positive"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChannelShuffle(**arguments)
