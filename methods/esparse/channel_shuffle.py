"""E-Sparse's channel shuffle: global naive shuffle (GNS), then local block shuffle (LBS).

Both are permutations of input channels that spread channels of large score over the groups of M. The paper's text was
not available: GNS and LBS follow its abstract and secondary sources, block size and stopping rule are ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from datasets.checks import check_choice, check_not_negative, check_positive
from methods.esparse.channel_permutation import assign_positions
from methods.esparse.group_ranking import removal_statistics, snake_order, sums_of_maxima


class ChannelShuffle:
    """Permutation of input channels by GNS, then LBS.

    Args:
        gns: apply the global naive shuffle.
        lbs: apply the local block shuffle.
        gns_order: how GNS deals channels to groups, "strided" or "snake".
        block_size: number of columns of a block of LBS.
        assignment_rounds: number of rounds of linear sum assignment over a block before the swaps; 0: swaps alone.
        max_sweeps: maximal number of sweeps of swaps over a block.
        max_rows: number of evenly spaced rows on which LBS computes gains; None: all rows.
        tolerance: smallest gain of a swap, as a share of the block's retained score.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        gns: bool = True,
        lbs: bool = True,
        gns_order: str = "strided",
        block_size: int = 256,
        assignment_rounds: int = 2,
        max_sweeps: int = 8,
        max_rows: int | None = None,
        tolerance: float = 1e-6,
    ) -> None:
        check_choice("method.permutation.gns_order", gns_order, tuple(GNS_ORDERS))
        check_positive("method.permutation", block_size=block_size, max_sweeps=max_sweeps, max_rows=max_rows)
        check_not_negative("method.permutation", assignment_rounds=assignment_rounds)
        self.gns, self.lbs, self.gns_order = gns, lbs, gns_order
        self.block_size, self.assignment_rounds = block_size, assignment_rounds
        self.max_sweeps, self.max_rows, self.tolerance = max_sweeps, max_rows, tolerance

    def __call__(self, scores: Tensor, n: int, m: int) -> Tensor:
        """Return the permutation (C,) for scores (R, C), of which n of every m columns are kept."""
        permutation = torch.arange(scores.shape[1], device=scores.device)
        if self.gns:
            permutation = global_naive_shuffle(scores, m, self.gns_order)
        if not self.lbs:
            return permutation
        return local_block_shuffle(
            scores,
            permutation,
            n,
            m,
            block_size=self.block_size,
            assignment_rounds=self.assignment_rounds,
            max_sweeps=self.max_sweeps,
            max_rows=self.max_rows,
            tolerance=self.tolerance,
        )


def strided_order(ranking: Tensor, m: int) -> Tensor:
    """Deal ranked channels to the G = C / M groups in turn: group g takes ranks g, g + G, g + 2G, ...

    Args:
        ranking: (C,) channels by rank.
        m: channels of a group.

    Returns:
        Permutation (C,) in which the members of each group are neighbours.
    """
    return ranking.view(m, -1).T.reshape(-1)


GNS_ORDERS: dict[str, Callable[[Tensor, int], Tensor]] = {"strided": strided_order, "snake": snake_order}


def global_naive_shuffle(scores: Tensor, m: int, order: str = "strided") -> Tensor:
    """Put channels of similar mean score in different groups (GNS).

    Args:
        scores: (R, C) scores.
        m: channels of a group.
        order: how ranked channels are dealt to the groups; "snake" balances the groups' sums.

    Returns:
        Permutation (C,).
    """
    return GNS_ORDERS[order](scores.mean(0).argsort(descending=True, stable=True), m)


def local_block_shuffle(
    scores: Tensor,
    permutation: Tensor,
    n: int,
    m: int,
    block_size: int = 256,
    assignment_rounds: int = 2,
    max_sweeps: int = 8,
    max_rows: int | None = None,
    tolerance: float = 1e-6,
) -> Tensor:
    """Reorder channels inside blocks of columns such that the retained score grows (LBS).

    The search is the greedy channel swap of Ji et al. (2018) and Pool and Yu (2021), with all gains computed at once.
    It starts from rounds of linear sum assignment (Zhang et al. 2024), which move all channels at one position of the
    groups together and cost 1 / M of a sweep: fewer swaps are left to be found. With `max_rows=None` the retained
    score never falls.

    Args:
        scores: (R, C) scores in the original order.
        permutation: (C,) order to start from.
        n: weights of a group that are kept.
        m: weights of a group.
        block_size: number of columns of a block; rounded down to whole groups.
        assignment_rounds: number of rounds of linear sum assignment over a block; 0: none.
        max_sweeps: maximal number of sweeps of swaps over a block.
        max_rows: number of evenly spaced rows on which gains are computed; None: all rows.
        tolerance: smallest gain of a swap, as a share of the block's retained score.

    Returns:
        Permutation (C,).
    """
    if max_rows is not None and max_rows < scores.shape[0]:
        scores = scores[torch.linspace(0, scores.shape[0] - 1, max_rows, device=scores.device).long()]
    width = max(block_size // m, 1) * m
    columns = scores.T.contiguous()
    permutation = permutation.clone()
    blocks = permutation.split(width)  # views
    for block in blocks:
        if len(block) > m:
            block[:] = _assigned(columns, block, n, m, assignment_rounds)
            block[:] = _swapped(columns, block, n, m, max_sweeps, tolerance)
    return permutation


def _assigned(columns: Tensor, block: Tensor, n: int, m: int, rounds: int) -> Tensor:
    """Return the channels of a block (C',) after rounds of assignment; columns: (C, R), the transposed scores."""
    for _ in range(rounds):
        before, block = block, block[assign_positions(columns[block], n, m)]
        if torch.equal(before, block):
            break
    return block


def _swapped(columns: Tensor, block: Tensor, n: int, m: int, max_sweeps: int, tolerance: float) -> Tensor:
    """Return the channels of a block (C',) after sweeps of swaps; columns: (C, R), the transposed scores."""
    block = block.clone()
    gains = SwapGains(columns[block], n, m)
    smallest = tolerance * gains.retained[::m].sum().item()
    p = q = block.new_empty(0)
    for _ in range(max_sweeps):
        gains.swap(p, q)
        p, q = best_disjoint_swaps(*gains.best_of_groups(), m, smallest)
        if not p.numel():
            break
        block[torch.cat([p, q])] = block[torch.cat([q, p])]
    return block


class SwapGains:
    """Gains in retained score of all swaps of two columns of a block.

    With A_p the retained score of p's group without p, b_p(r) the score that a newcomer in p's place must exceed in
    row r, and D[p, q] = sum_r relu(S[r, q] - b_p(r)), a swap of p and q gains
    A_p + A_q + D[p, q] + D[q, p] - retained(p) - retained(q). D uses relu(s - b) = max(s, b) - b. After swaps only the
    rows of D of changed groups are computed anew.

    Args:
        columns: (C', R) scores of the block's columns, in their present order.
        n: weights of a group that are kept.
        m: weights of a group.
    """

    def __init__(self, columns: Tensor, n: int, m: int) -> None:
        self.columns, self.n, self.m = columns.clone(), n, m
        size = columns.shape[0]
        self.D = columns.new_zeros(size, size)
        self.A = columns.new_zeros(size)
        self.retained = columns.new_zeros(size)  # of each column's group
        self.update(torch.arange(size // m, device=columns.device))

    def update(self, groups: Tensor) -> None:
        """Recompute what depends on the groups (g,)."""
        thresholds, without, retained = removal_statistics(self.columns, self.n, self.m, groups)
        places = (groups[:, None] * self.m + torch.arange(self.m, device=groups.device)).flatten()
        self.D[places] = sums_of_maxima(thresholds, self.columns) - thresholds.sum(1, keepdim=True)
        self.A[places] = without
        self.retained[places] = retained.repeat_interleave(self.m)

    def swap(self, p: Tensor, q: Tensor) -> None:
        """Exchange the columns p (k,) with q (k,), all of different groups."""
        if not p.numel():
            return
        both, other = torch.cat([p, q]), torch.cat([q, p])
        self.columns[both] = self.columns[other]
        self.D[:, both] = self.D[:, other]
        self.update((both // self.m).unique())

    def matrix(self) -> Tensor:
        """Return the gain of each swap (C', C'), -inf within a group."""
        side = self.A - self.retained
        gain = side[:, None] + side[None] + self.D + self.D.T
        group = torch.arange(len(side), device=side.device) // self.m
        return gain.masked_fill_(group[:, None] == group[None], -torch.inf)

    def best_of_groups(self) -> tuple[Tensor, Tensor]:
        """Return gain (G, G) and places (G, G) of the best swap between any two groups, see `best_of_groups`."""
        if self.D.device.type == "cpu":
            from methods.esparse import cpu_kernels  # imports numba

            return cpu_kernels.best_swaps_of_groups(self.D, self.A - self.retained, self.m)
        return best_of_groups(self.matrix(), self.m)


def best_of_groups(gain: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Find the best swap between any two groups.

    Args:
        gain: (C', C') gain of each swap.
        m: columns of a group.

    Returns:
        For G = C' / M groups the gain (G, G) and the places i M + j (G, G) of the columns i and j inside their groups
        g and h. Only entries g < h count; other gains are -inf.
    """
    groups = gain.shape[0] // m
    pairs = gain.view(groups, m, groups, m).permute(0, 2, 1, 3).reshape(groups, groups, -1)
    best, where = pairs.max(2)
    return best.masked_fill(torch.ones_like(best, dtype=torch.bool).tril(), -torch.inf), where


def best_disjoint_swaps(best: Tensor, where: Tensor, m: int, smallest: float) -> tuple[Tensor, Tensor]:
    """Choose swaps greedily in falling order of gain, each group at most once.

    Only the best swap between two groups matters, so pairs of groups are visited, not pairs of columns.

    Args:
        best: (G, G) gain of the best swap between two groups, see `best_of_groups`.
        where: (G, G) places of its columns.
        m: columns of a group.
        smallest: gains up to this value are ignored.

    Returns:
        Columns p (k,) and q (k,) to be exchanged.
    """
    from methods.esparse import cpu_kernels  # imports numba

    groups, gains, places = len(best), best.flatten().cpu(), where.flatten().cpu()
    pairs = (gains > smallest).nonzero().flatten()
    pairs = pairs[gains[pairs].argsort(descending=True, stable=True)]
    pairs = pairs[cpu_kernels.disjoint_pairs(pairs, groups)]
    p = pairs // groups * m + places[pairs] // m
    q = pairs % groups * m + places[pairs] % m
    return p.to(best.device), q.to(best.device)
