"""Sums of maxima on a CPU, compiled: a maximum and its sum in one pass, where torch writes all maxima out first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor


# Threads of our own: those of numba's `parallel` wait by spinning, and take the cores from all else that computes.
@numba.njit(nogil=True, fastmath=True, cache=True)
def _fill(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    for p in range(a.shape[0]):
        for q in range(b.shape[0]):
            total = np.float32(0)
            for r in range(a.shape[1]):
                total += max(a[p, r], b[q, r])
            out[p, q] = total


def sums_of_maxima(a: Tensor, b: Tensor) -> Tensor:
    """sum_r max(a[p, r], b[q, r]): (n, R), (m, R) -> (n, m), float32, with as many threads as torch has."""
    x, y = (t.float().contiguous().numpy() for t in (a, b))
    out = np.empty((len(x), len(y)), dtype=np.float32)
    threads = min(torch.get_num_threads(), len(x))
    if threads <= 1:
        _fill(x, y, out)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(_fill, np.array_split(x, threads), [y] * threads, np.array_split(out, threads)))
    return torch.from_numpy(out)
