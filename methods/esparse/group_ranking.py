"""Rankings inside groups of M input channels. N:M masks, the channel shuffle and RIA's permutation use them.

A permutation (C,) lists original columns in their new order: W' = W[:, permutation].
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_PER_CHUNK = 256  # rows of a large matrix that are processed together, so that intermediates stay in a CPU's cache


def descending_ranks(members: Tensor) -> Tensor:
    """Rank scores along the first axis: 0 for the largest; the first of equal scores comes before the others.

    All pairs are compared: a few passes over long vectors, where sorting many short lists is slow.

    Shapes:
        members: (M, ...) scores of a group's members. Result: the same shape, int8 or int32.
    """
    rank = torch.zeros_like(members, dtype=torch.int8 if len(members) < 128 else torch.int32)
    for i in range(members.shape[0]):
        for j in range(i + 1, members.shape[0]):
            behind = members[i] >= members[j]
            rank[j] += behind
            rank[i] += ~behind
    return rank


def snake_order(ranking: Tensor, m: int) -> Tensor:
    """Deal ranked channels to the G = C / M groups in a snake: forwards, backwards, forwards, ...

    Args:
        ranking: (C,) channels by rank.
        m: channels of a group.

    Returns:
        Permutation (C,) in which the members of each group are neighbours.
    """
    rounds = ranking.view(m, -1)
    rounds = torch.stack([channels.flip(0) if i % 2 else channels for i, channels in enumerate(rounds)])
    return rounds.T.reshape(-1)


def retained_score(scores: Tensor, permutation: Tensor, n: int, m: int) -> float:
    """Sum the scores that N:M pruning keeps after the permutation.

    Args:
        scores: (R, C) scores in the original order.
        permutation: (C',) columns that are grouped, in their order; C' is a multiple of M.
        n: weights of a group that are kept.
        m: weights of a group.
    """
    if scores.device.type == "cpu":
        from methods.esparse import cpu_kernels  # imports numba

        return cpu_kernels.retained_score(scores, permutation, n, m)
    kept = 0.0
    for part in scores.split(ROWS_PER_CHUNK):
        members = part[:, permutation].unflatten(1, (-1, m)).movedim(2, 0).contiguous()
        kept += (members * (descending_ranks(members) < n)).sum(dtype=torch.float64).item()
    return kept


def removal_statistics(columns: Tensor, n: int, m: int, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute how each group fares without one of its columns, for all columns of the given groups.

    Args:
        columns: (C, R) scores, transposed: a row is a column of the weight matrix; neighbours form groups of M.
        n: weights of a group that are kept.
        m: weights of a group.
        groups: (g,) numbers of the groups.

    Returns:
        thresholds: (g * M, R), the score that a newcomer in the column's place must exceed to be kept.
        without: (g * M,), the group's retained score without the column: the n - 1 best of the others plus threshold.
        retained: (g,), the group's retained score as it is.
    """
    if columns.device.type == "cpu":
        from methods.esparse import cpu_kernels  # imports numba

        return cpu_kernels.removal_statistics(columns, n, m, groups)
    members = columns.unflatten(0, (-1, m))[groups].movedim(1, 0)  # (M, g, R)
    rank = descending_ranks(members)
    nth = (members * (rank == n - 1)).sum(0)
    next_nth = (members * (rank == n)).sum(0)
    kept = rank < n  # without a kept member, the next one moves up
    retained = (members * kept).sum(0)
    thresholds = torch.where(kept, next_nth, nth)
    without = retained.sum(1) + (kept * (next_nth - members)).sum(2)
    return thresholds.movedim(0, 1).flatten(0, 1).contiguous(), without.T.flatten(), retained.sum(1)


def removal_at(columns: Tensor, n: int, m: int, position: int) -> tuple[Tensor, Tensor]:
    """Compute how each group fares without its column at one position.

    Args:
        columns: (C, R) scores, transposed; neighbours form groups of M.
        n: weights of a group that are kept.
        m: weights of a group.
        position: number of the column inside its group.

    Returns:
        thresholds: (C / M, R), the score that a newcomer in the column's place must exceed to be kept.
        without: (C / M,), the group's retained score without the column.
    """
    if columns.device.type == "cpu":
        from methods.esparse import cpu_kernels  # imports numba

        return cpu_kernels.removal_at(columns, n, m, position)
    groups = torch.arange(len(columns) // m, device=columns.device)
    thresholds, without, _ = removal_statistics(columns, n, m, groups)
    return thresholds[position::m].contiguous(), without[position::m]


def sums_of_maxima(a: Tensor, b: Tensor) -> Tensor:
    """Compute sum_r max(a[p, r], b[q, r]) for all p and q.

    Shapes:
        a: (n, R). b: (m, R). Result: (n, m).
    """
    if a.device.type == "cpu":
        from methods.esparse import cpu_kernels  # imports numba

        return cpu_kernels.sums_of_maxima(a, b)
    return (a.sum(1)[:, None] + b.sum(1)[None] + torch.cdist(a, b, p=1)) / 2
