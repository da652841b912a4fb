"""Sums of maxima on a CPU, compiled: a maximum and its sum in one pass, where torch writes all maxima out first."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor


@numba.njit(parallel=True, fastmath=True, cache=True)
def _fill(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    for p in numba.prange(a.shape[0]):
        for q in range(b.shape[0]):
            total = np.float32(0)
            for r in range(a.shape[1]):
                total += max(a[p, r], b[q, r])
            out[p, q] = total


def sums_of_maxima(a: Tensor, b: Tensor) -> Tensor:
    """sum_r max(a[p, r], b[q, r]): (n, R), (m, R) -> (n, m), float32, with as many threads as torch has."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    out = np.empty((a.shape[0], b.shape[0]), dtype=np.float32)
    _fill(a.float().contiguous().numpy(), b.float().contiguous().numpy(), out)
    return torch.from_numpy(out)
