"""Loops on a CPU, compiled: what torch does in many passes over long vectors, in one that stays in the cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

CHANNELS_AT_ONCE = 64  # whose counts stay in a core's cache

# Threads of our own: those of numba's `parallel` wait by spinning, and take the cores from all else that computes.
compiled = numba.njit(nogil=True, cache=True)
compiled_fast = numba.njit(nogil=True, cache=True, fastmath=True)


@compiled_fast
def _maxima(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    for p in range(a.shape[0]):
        for q in range(b.shape[0]):
            total = np.float32(0)
            for r in range(a.shape[1]):
                total += max(a[p, r], b[q, r])
            out[p, q] = total


@compiled_fast
def _swap_parts(
    columns: np.ndarray, groups: np.ndarray, keep: int, bars: np.ndarray, without: np.ndarray, base: np.ndarray
) -> None:
    of, rows = bars.shape[1], bars.shape[2]
    rank = np.empty((of, rows), np.int32)
    kth, next_kth, kept = np.empty(rows, np.float32), np.empty(rows, np.float32), np.empty(rows, np.float32)
    for n in range(groups.size):
        members = columns[groups[n] * of : (groups[n] + 1) * of]
        rank[:] = 0
        kth[:] = 0
        next_kth[:] = 0
        kept[:] = 0
        for i in range(of):
            for j in range(i + 1, of):
                for r in range(rows):
                    behind = members[i, r] >= members[j, r]
                    rank[j, r] += behind
                    rank[i, r] += not behind
        for i in range(of):
            for r in range(rows):
                value, place = members[i, r], rank[i, r]
                kth[r] += value if place == keep - 1 else np.float32(0)
                next_kth[r] += value if place == keep else np.float32(0)
                kept[r] += value if place < keep else np.float32(0)
        total = np.float64(0)
        for r in range(rows):
            total += kept[r]
        base[n] = total
        for i in range(of):
            changed = np.float64(0)
            for r in range(rows):
                inside = rank[i, r] < keep
                bars[n, i, r] = next_kth[r] if inside else kth[r]
                changed += next_kth[r] - members[i, r] if inside else np.float32(0)
            without[n, i] = total + changed


@compiled
def _add_counts(x: np.ndarray, low: np.ndarray, width: np.ndarray, counts: np.ndarray) -> None:
    bins = counts.shape[1]
    scale, last = np.float32(bins), np.float32(bins - 1)
    for start in range(0, x.shape[1], CHANNELS_AT_ONCE):
        end = min(start + CHANNELS_AT_ONCE, x.shape[1])
        found = np.zeros((end - start, bins), np.int32)
        for t in range(x.shape[0]):
            for c in range(start, end):
                place = (x[t, c] - low[c]) / width[c] * scale
                found[c - start, np.int64(min(max(place, np.float32(0)), last))] += 1
        counts[start:end] += found


def sums_of_maxima(a: Tensor, b: Tensor) -> Tensor:
    """sum_r max(a[p, r], b[q, r]): (n, R), (m, R) -> (n, m), float32."""
    x, y = (numpy(t) for t in (a, b))
    out = np.empty((len(x), len(y)), dtype=np.float32)
    in_threads(lambda part: _maxima(x[part], y, out[part]), len(x))
    return torch.from_numpy(out)


def swap_parts(columns: Tensor, keep: int, of: int, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `methods.esparse.shuffle.swap_parts`."""
    x, chosen = numpy(columns), groups.numpy()
    bars = np.empty((len(chosen), of, x.shape[1]), dtype=np.float32)
    without, base = np.empty((len(chosen), of), dtype=np.float32), np.empty(len(chosen), dtype=np.float32)
    in_threads(lambda part: _swap_parts(x, chosen[part], keep, bars[part], without[part], base[part]), len(chosen))
    return torch.from_numpy(bars).flatten(0, 1), torch.from_numpy(without).flatten(), torch.from_numpy(base)


def add_counts(counts: Tensor, x: Tensor, low: Tensor, width: Tensor) -> None:
    """As `methods.esparse.entropy.add_counts`; width: (C,), infinite where a channel is constant."""
    values, start, size, found = numpy(x), numpy(low), numpy(width), counts.numpy()
    in_threads(lambda part: _add_counts(values[:, part], start[part], size[part], found[part]), x.shape[1])


def in_threads(work: Callable[[slice], None], count: int) -> None:
    """Calls `work` on the parts of range(count), with as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(slice(0, count))
        return
    edges = np.linspace(0, count, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, (slice(a, b) for a, b in pairwise(edges))))


def numpy(x: Tensor) -> np.ndarray:
    """As contiguous float32."""
    return x.float().contiguous().numpy()
