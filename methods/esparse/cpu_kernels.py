"""CPU kernels compiled by numba. Each replaces several passes of torch over long vectors by one that stays in cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

CHANNELS_PER_CHUNK = 64  # their counts stay in a core's cache
LOWEST = np.finfo(np.float32).min

# The kernels run in our own threads: the idle threads of numba's `parallel` spin and slow down everything else.
compiled = numba.njit(nogil=True, cache=True)
compiled_fast = numba.njit(nogil=True, cache=True, fastmath=True)


def sums_of_maxima(a: Tensor, b: Tensor) -> Tensor:
    """Compute sum_r max(a[p, r], b[q, r]) for all p and q.

    Shapes:
        a: (n, R). b: (m, R). Result: (n, m) float32.
    """
    x, y = (to_numpy(t) for t in (a, b))
    out = np.empty((len(x), len(y)), dtype=np.float32)
    run_in_threads(lambda part: _sums_of_maxima(x[part], y, out[part]), len(x))
    return torch.from_numpy(out)


def retained_score(scores: Tensor, permutation: Tensor, n: int, m: int) -> float:
    """Compute what `methods.esparse.group_ranking.retained_score` computes."""
    x, order = to_numpy(scores), permutation.numpy()
    sums = np.empty(len(x))
    run_in_threads(lambda part: _retained_scores(x[part], order, n, m, sums[part]), len(x))
    return float(sums.sum())


def best_swaps_of_groups(D: Tensor, side: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Find the best swap between any two groups by side[p] + side[q] + D[p, q] + D[q, p].

    Args:
        D: (C, C) part of the gain of a swap, see `methods.esparse.channel_shuffle.SwapGains`.
        side: (C,) the other part: A minus the retained score of each column's group.
        m: columns of a group.

    Returns:
        For G = C / M groups the gain (G, G) and the places i M + j (G, G) of the columns i and j inside their groups g
        and h. Only entries g < h are filled; other gains are -inf.
    """
    groups = len(side) // m
    best, where = np.full((groups, groups), -np.inf, dtype=np.float32), np.zeros((groups, groups), dtype=np.int64)
    _best_swaps_of_groups(to_numpy(D), to_numpy(side), m, best, where)
    return torch.from_numpy(best), torch.from_numpy(where)


def disjoint_pairs(order: Tensor, groups: int) -> Tensor:
    """Choose pairs of groups in turn, each group at most once.

    Args:
        order: (k,) pairs of the groups g and h as g * `groups` + h.
        groups: number of groups.

    Returns:
        Places in `order` of the chosen pairs.
    """
    chosen = np.empty(groups // 2, dtype=np.int64)
    count = _choose_disjoint(order.numpy(), groups, chosen)
    return torch.from_numpy(chosen[:count])


def removal_statistics(columns: Tensor, n: int, m: int, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what `methods.esparse.group_ranking.removal_statistics` computes."""
    x, chosen = to_numpy(columns), groups.numpy()
    thresholds = np.empty((len(chosen), m, x.shape[1]), dtype=np.float32)
    without = np.empty((len(chosen), m), dtype=np.float32)
    retained = np.empty(len(chosen), dtype=np.float32)
    run_in_threads(
        lambda part: _removal_statistics(x, chosen[part], n, thresholds[part], without[part], retained[part]),
        len(chosen),
    )
    return torch.from_numpy(thresholds).flatten(0, 1), torch.from_numpy(without).flatten(), torch.from_numpy(retained)


def removal_at(columns: Tensor, n: int, m: int, position: int) -> tuple[Tensor, Tensor]:
    """Compute what `methods.esparse.group_ranking.removal_at` computes."""
    x = to_numpy(columns).reshape(len(columns) // m, m, -1)
    thresholds, without = np.empty((len(x), x.shape[2]), dtype=np.float32), np.empty(len(x), dtype=np.float32)
    run_in_threads(lambda part: _removal_at(x[part], n, position, thresholds[part], without[part]), len(x))
    return torch.from_numpy(thresholds), torch.from_numpy(without)


def add_counts(counts: Tensor, x: Tensor, low: Tensor, width: Tensor) -> None:
    """Do what `methods.esparse.entropy.add_counts` does.

    Args:
        counts: (C, K) int64 histogram, changed in place.
        x: (T, C) values.
        low: (C,) lower end of each channel's range.
        width: (C,) width of each channel's range, infinite for a constant channel.
    """
    values, start, size, histogram = to_numpy(x), to_numpy(low), to_numpy(width), counts.numpy()
    run_in_threads(
        lambda part: _add_counts(values[:, part], start[part], size[part], histogram[part]),
        x.shape[1],
    )


def run_in_threads(work: Callable[[slice], None], count: int) -> None:
    """Call `work` on slices that together cover range(count), in as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(slice(0, count))
        return
    edges = np.linspace(0, count, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, (slice(a, b) for a, b in pairwise(edges))))


def to_numpy(x: Tensor) -> np.ndarray:
    """Return the tensor as a contiguous float32 array."""
    return x.float().contiguous().numpy()


@compiled_fast
def _sums_of_maxima(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Compute tiles of 2 x 4 sums, so that each value that is loaded is used several times. Tiles may overlap."""
    last_p, last_q = a.shape[0] - 1, b.shape[0] - 1
    for p in range(0, a.shape[0], 2):
        next_p = min(p + 1, last_p)
        for q in range(0, b.shape[0], 4):
            q1, q2, q3 = min(q + 1, last_q), min(q + 2, last_q), min(q + 3, last_q)
            a0, a1, b0, b1, b2, b3 = a[p], a[next_p], b[q], b[q1], b[q2], b[q3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
            for r in range(a.shape[1]):
                x0, x1 = a0[r], a1[r]
                y0, y1, y2, y3 = b0[r], b1[r], b2[r], b3[r]
                s00 += max(x0, y0)
                s01 += max(x0, y1)
                s02 += max(x0, y2)
                s03 += max(x0, y3)
                s10 += max(x1, y0)
                s11 += max(x1, y1)
                s12 += max(x1, y2)
                s13 += max(x1, y3)
            out[p, q], out[p, q1], out[p, q2], out[p, q3] = s00, s01, s02, s03
            out[next_p, q], out[next_p, q1], out[next_p, q2], out[next_p, q3] = s10, s11, s12, s13


@compiled_fast
def _retained_scores(x: np.ndarray, order: np.ndarray, n: int, m: int, sums: np.ndarray) -> None:
    groups = order.size // m
    members = np.empty((m, groups), np.float32)
    top = np.empty((n, groups), np.float32)
    for r in range(x.shape[0]):
        for i in range(m):
            for g in range(groups):
                members[i, g] = x[r, order[g * m + i]]
        _largest(members, top)
        total = np.float64(0)
        for k in range(n):
            for g in range(groups):
                total += top[k, g]
        sums[r] = total


@compiled
def _best_swaps_of_groups(D: np.ndarray, side: np.ndarray, m: int, best: np.ndarray, where: np.ndarray) -> None:
    for g in range(best.shape[0]):
        for h in range(g + 1, best.shape[0]):
            for i in range(m):
                for j in range(m):
                    p, q = g * m + i, h * m + j
                    gain = side[p] + side[q] + D[p, q] + D[q, p]
                    if gain > best[g, h]:
                        best[g, h], where[g, h] = gain, i * m + j


@compiled_fast
def _largest(members: np.ndarray, top: np.ndarray) -> None:
    """Write the largest scores of each row, in falling order, as many as `top` holds."""
    top[:] = LOWEST
    for i in range(members.shape[0]):
        rest = members[i].copy()
        for k in range(min(i + 1, top.shape[0])):
            for r in range(rest.size):
                larger, smaller = max(top[k, r], rest[r]), min(top[k, r], rest[r])
                top[k, r], rest[r] = larger, smaller


@compiled_fast
def _removal_statistics(
    columns: np.ndarray, groups: np.ndarray, n: int, thresholds: np.ndarray, without: np.ndarray, retained: np.ndarray
) -> None:
    m, rows = thresholds.shape[1], thresholds.shape[2]
    top = np.empty((n + 1, rows), np.float32)
    nth, next_nth = top[n - 1], top[n]
    for g in range(groups.size):
        members = columns[groups[g] * m : (groups[g] + 1) * m]
        _largest(members, top)
        total = np.float64(0)
        for k in range(n):
            for r in range(rows):
                total += top[k, r]
        retained[g] = total
        for i in range(m):
            changed = np.float64(0)
            for r in range(rows):
                kept = members[i, r] >= nth[r]  # of several equal to it, the threshold is the same for all
                thresholds[g, i, r] = next_nth[r] if kept else nth[r]
                changed += next_nth[r] - members[i, r] if kept else np.float32(0)
            without[g, i] = total + changed


@compiled_fast
def _removal_at(x: np.ndarray, n: int, position: int, thresholds: np.ndarray, without: np.ndarray) -> None:
    others = np.empty((x.shape[1] - 1, x.shape[2]), np.float32)
    top = np.empty((n, x.shape[2]), np.float32)
    for g in range(x.shape[0]):
        others[:position] = x[g, :position]
        others[position:] = x[g, position + 1 :]
        _largest(others, top)
        thresholds[g] = top[n - 1]
        total = np.float64(0)
        for k in range(n):
            for r in range(top.shape[1]):
                total += top[k, r]
        without[g] = total


@compiled
def _choose_disjoint(order: np.ndarray, groups: int, chosen: np.ndarray) -> int:
    used = np.zeros(groups, np.bool_)
    count = 0
    for i in range(order.size):
        g, h = order[i] // groups, order[i] % groups
        if not (used[g] or used[h]):
            used[g] = used[h] = True
            chosen[count] = i
            count += 1
    return count


@compiled
def _add_counts(x: np.ndarray, low: np.ndarray, width: np.ndarray, counts: np.ndarray) -> None:
    bins = counts.shape[1]
    scale, last = np.float32(bins), np.float32(bins - 1)
    for start in range(0, x.shape[1], CHANNELS_PER_CHUNK):
        end = min(start + CHANNELS_PER_CHUNK, x.shape[1])
        chunk = np.zeros((end - start, bins), np.int32)
        for t in range(x.shape[0]):
            for c in range(start, end):
                place = (x[t, c] - low[c]) / width[c] * scale
                chunk[c - start, np.int64(min(max(place, np.float32(0)), last))] += 1
        counts[start:end] += chunk
