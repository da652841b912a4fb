"""E-Sparse's channel shuffles: permutations of input channels that spread the rich ones over the groups of M.

A permutation (C,) lists original columns in their new order: W' = W[:, permutation].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

ROWS_AT_ONCE = 256  # of a large matrix, so that what is computed from them stays in a CPU's cache


def retained(scores: Tensor, permutation: Tensor, keep: int, of: int) -> float:
    """Sum of the scores that N:M pruning keeps after the permutation."""
    kept = 0.0
    for part in scores.split(ROWS_AT_ONCE):
        members = part[:, permutation].unflatten(1, (-1, of)).movedim(2, 0).contiguous()
        kept += (members * (ranks(members) < keep)).sum(dtype=torch.float64).item()
    return kept


def global_naive_shuffle(scores: Tensor, of: int, order: Literal["strided", "snake"] = "strided") -> Tensor:
    """GNS: channels of like mean score go to different groups. scores (R, C) -> permutation (C,).

    Ranked by mean score, group g takes ranks g, g + G, g + 2G, ... of the G = C / of groups; with `snake` every second
    run of G ranks is dealt backwards, which balances the groups' sums.
    """
    ranks = scores.mean(0).argsort(descending=True, stable=True).view(of, -1)
    if order == "snake":
        ranks = torch.stack([run.flip(0) if i % 2 else run for i, run in enumerate(ranks)])
    return ranks.T.reshape(-1)


def swap_parts(columns: Tensor, keep: int, of: int, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For the columns of the given groups: how a group fares without a column.

    columns: (m, R) scores, a column of the matrix in each row, grouped by `of`; groups: (n,) which. Returns b
    (n of, R), the score that a newcomer in the column's place must beat; A (n of,), the group's kept sum without the
    column (`keep` - 1 of the others, and then the one that the newcomer must beat); base (n,), its kept sum as it is.
    """
    if columns.device.type == "cpu":
        from methods.esparse import compiled

        return compiled.swap_parts(columns, keep, of, groups)
    members = columns.unflatten(0, (-1, of))[groups].movedim(1, 0)  # (of, n, R)
    rank = ranks(members)
    kth = (members * (rank == keep - 1)).sum(0)
    next_kth = (members * (rank == keep)).sum(0)
    inside = rank < keep  # kept now: without it, number keep + 1 moves up
    base = (members * inside).sum(0)
    bar = torch.where(inside, next_kth, kth)
    without = base.sum(1) + (inside * (next_kth - members)).sum(2)
    return bar.movedim(0, 1).flatten(0, 1).contiguous(), without.T.flatten(), base.sum(1)


def ranks(members: Tensor) -> Tensor:
    """(of, ...) scores -> ranks along the first axis, 0 the largest; of equal ones the first goes before.

    By comparing all pairs: a few passes over long vectors, where sorting many short lists is slow.
    """
    rank = torch.zeros_like(members, dtype=torch.int8 if len(members) < 128 else torch.int32)
    for i in range(members.shape[0]):
        for j in range(i + 1, members.shape[0]):
            behind = members[i] >= members[j]
            rank[j] += behind
            rank[i] += ~behind
    return rank


def sums_of_maxima(a: Tensor, b: Tensor) -> Tensor:
    """sum_r max(a[p, r], b[q, r]): (n, R), (m, R) -> (n, m)."""
    if a.device.type == "cpu":
        from methods.esparse import compiled  # at its first use

        return compiled.sums_of_maxima(a, b)
    return (a.sum(1)[:, None] + b.sum(1)[None] + torch.cdist(a, b, p=1)) / 2


class SwapGains:
    """What every swap of two columns of a block would add to the kept score: gain (m, m), -inf within a group.

    gain[p, q] = A_p + A_q + D[p, q] + D[q, p] - base(p) - base(q), D[p, q] = sum_r relu(S[r, q] - b_p(r)): what column
    q gives in the place of p, from relu(s - b) = max(s, b) - b. After swaps only the rows of D of changed groups are
    computed anew.
    """

    def __init__(self, scores: Tensor, keep: int, of: int) -> None:
        """scores: (R, m) of one block, in its present order."""
        self.columns = scores.T.clone(memory_format=torch.contiguous_format)  # (m, R)
        self.keep, self.of = keep, of
        m = scores.shape[1]
        self.D = scores.new_zeros(m, m)
        self.A = scores.new_zeros(m)
        self.base = scores.new_zeros(m)
        self.update(torch.arange(m // of, device=scores.device))
        self.group = torch.arange(m, device=scores.device) // of

    def update(self, groups: Tensor) -> None:
        """Recomputes what depends on the groups (n,)."""
        bars, without, base = swap_parts(self.columns, self.keep, self.of, groups)
        places = (groups[:, None] * self.of + torch.arange(self.of, device=groups.device)).flatten()
        self.D[places] = sums_of_maxima(bars, self.columns) - bars.sum(1, keepdim=True)
        self.A[places] = without
        self.base[places] = base.repeat_interleave(self.of)

    def swap(self, p: Tensor, q: Tensor) -> None:
        """Exchanges the columns p (n,) with q (n,), all of different groups."""
        both, other = torch.cat([p, q]), torch.cat([q, p])
        self.columns[both] = self.columns[other]
        self.D[:, both] = self.D[:, other]
        self.update((both // self.of).unique())

    def gains(self) -> Tensor:
        side = self.A - self.base
        gain = side[:, None] + side[None] + self.D + self.D.T
        return gain.masked_fill_(self.group[:, None] == self.group[None], -torch.inf)


def best_disjoint(gain: Tensor, of: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Swaps in falling order of gain, each group used at most once: (p, q), both (n,). Gains above `tolerance` only.

    Only the best swap between two groups matters, so pairs of groups are walked, not pairs of columns.
    """
    m = gain.shape[0]
    groups = m // of
    pairs = gain.view(groups, of, groups, of).permute(0, 2, 1, 3).reshape(groups, groups, -1)
    best, where = pairs.max(2)
    flat = best.triu(1).flatten()
    order = flat.argsort(descending=True)
    order = order[flat[order] > tolerance]
    used: set[int] = set()
    p, q = [], []
    for place, inner in zip(order.tolist(), where.flatten()[order].tolist(), strict=True):
        g, h = divmod(place, groups)
        if g in used or h in used:
            continue
        used |= {g, h}
        p.append(g * of + inner // of)
        q.append(h * of + inner % of)
    return torch.tensor(p, device=gain.device, dtype=torch.long), torch.tensor(q, device=gain.device, dtype=torch.long)


def local_block_shuffle(
    scores: Tensor,
    permutation: Tensor,
    keep: int,
    of: int,
    block: int = 256,
    max_sweeps: int = 8,
    rows: int | None = None,
    tolerance: float = 1e-6,
) -> Tensor:
    """LBS: greedy swaps of channels inside blocks of `block` columns while the kept score grows.

    scores: (R, C) in the original order; permutation: (C,) to start from; rows: how many evenly spaced rows gains are
    computed on (None: all, and then the kept score never falls); tolerance: smallest gain, as a share of the block's
    kept score. Returns the permutation (C,). Swaps as in Ji et al. 2018 and Pool and Yu 2021, all gains at once.
    """
    if rows is not None and rows < scores.shape[0]:
        scores = scores[torch.linspace(0, scores.shape[0] - 1, rows, device=scores.device).long()]
    permutation = permutation.clone()
    width = max(block // of, 1) * of
    for start in range(0, permutation.numel(), width):
        here = permutation[start : start + width].clone()
        if here.numel() <= of:
            continue
        state = SwapGains(scores[:, here], keep, of)
        least = tolerance * state.base[::of].sum().item()
        for _ in range(max_sweeps):
            p, q = best_disjoint(state.gains(), of, least)
            if not p.numel():
                break
            here[torch.cat([p, q])] = here[torch.cat([q, p])]
            state.swap(p, q)
        permutation[start : start + width] = here
    return permutation


class Shuffle:
    """GNS, then LBS. Called with scores (R, C), keep, of -> permutation (C,).

    Args: gns, lbs: which of the two. order: of GNS, `strided` or `snake`. block, max_sweeps, rows, tolerance: of LBS.
    """

    def __init__(
        self,
        gns: bool = True,
        lbs: bool = True,
        order: Literal["strided", "snake"] = "strided",
        block: int = 256,
        max_sweeps: int = 8,
        rows: int | None = None,
        tolerance: float = 1e-6,
    ) -> None:
        if order not in ("strided", "snake"):
            raise ValueError(f"method.shuffle.order must be strided or snake, got {order}")
        for name, value in {"block": block, "max_sweeps": max_sweeps, "rows": rows}.items():
            if value is not None and value < 1:
                raise ValueError(f"method.shuffle.{name} must be positive, got {value}")
        self.gns, self.lbs, self.order = gns, lbs, order
        self.settings = {"block": block, "max_sweeps": max_sweeps, "rows": rows, "tolerance": tolerance}

    def __call__(self, scores: Tensor, keep: int, of: int) -> Tensor:
        permutation = torch.arange(scores.shape[1], device=scores.device)
        if self.gns:
            permutation = global_naive_shuffle(scores, of, self.order)
        return local_block_shuffle(scores, permutation, keep, of, **self.settings) if self.lbs else permutation


Permuter = Callable[[Tensor, int, int], Tensor]
