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
    for p in range(a.shape[0]):
        for q in range(b.shape[0]):
            total = np.float32(0)
            for r in range(a.shape[1]):
                total += max(a[p, r], b[q, r])
            out[p, q] = total


@compiled_fast
def _rank(members: np.ndarray, rank: np.ndarray) -> None:
    """Rank the members of a group in each row, 0 for the largest; the first of equal ones comes before."""
    rank[:] = 0
    for i in range(members.shape[0]):
        for j in range(i + 1, members.shape[0]):
            for r in range(members.shape[1]):
                behind = members[i, r] >= members[j, r]
                rank[j, r] += behind
                rank[i, r] += not behind


@compiled_fast
def _select(
    members: np.ndarray, rank: np.ndarray, n: int, nth: np.ndarray, next_nth: np.ndarray, kept: np.ndarray
) -> None:
    """Write the n-th largest score of each row, the next one, and the sum of the n largest."""
    nth[:] = 0
    next_nth[:] = 0
    kept[:] = 0
    for i in range(members.shape[0]):
        for r in range(members.shape[1]):
            value, place = members[i, r], rank[i, r]
            nth[r] += value if place == n - 1 else np.float32(0)
            next_nth[r] += value if place == n else np.float32(0)
            kept[r] += value if place < n else np.float32(0)


@compiled_fast
def _removal_statistics(
    columns: np.ndarray, groups: np.ndarray, n: int, thresholds: np.ndarray, without: np.ndarray, retained: np.ndarray
) -> None:
    m, rows = thresholds.shape[1], thresholds.shape[2]
    rank = np.empty((m, rows), np.int32)
    nth, next_nth, kept = np.empty(rows, np.float32), np.empty(rows, np.float32), np.empty(rows, np.float32)
    for g in range(groups.size):
        members = columns[groups[g] * m : (groups[g] + 1) * m]
        _rank(members, rank)
        _select(members, rank, n, nth, next_nth, kept)
        total = np.float64(0)
        for r in range(rows):
            total += kept[r]
        retained[g] = total
        for i in range(m):
            changed = np.float64(0)
            for r in range(rows):
                inside = rank[i, r] < n
                thresholds[g, i, r] = next_nth[r] if inside else nth[r]
                changed += next_nth[r] - members[i, r] if inside else np.float32(0)
            without[g, i] = total + changed


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
