"""Passes of leaky integrate-and-fire neurons for a CPU, compiled by numba: one pass over memory for all steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from methods.esvae.lif_eager import HALF_WIDTH, Dynamics

BLOCK = 2048  # neurons at a time, whose state of one step stays in the first-level cache
PARALLEL_FROM = 1 << 17  # neurons from which several threads pay

# Without fastmath, so that no product is fused with a sum: spikes are those of PyTorch's operations, bit for bit.
compiled = numba.njit(nogil=True, cache=True)


@compiled
def _forward(
    current: np.ndarray,
    potential: np.ndarray,
    spikes: np.ndarray,
    decay: np.float32,
    threshold: np.float32,
    first: int,
    last: int,
) -> None:
    repeated = current.shape[0] == 1
    zero, one = np.float32(0), np.float32(1)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        for m in range(start, stop):
            u = current[0, m]
            potential[0, m] = u
            spikes[0, m] = one if u > threshold else zero
        for t in range(1, potential.shape[0]):
            row = 0 if repeated else t
            for m in range(start, stop):
                before = potential[t - 1, m]
                u = (zero if before > threshold else decay * before) + current[row, m]
                potential[t, m] = u
                spikes[t, m] = one if u > threshold else zero


@compiled
def _backward(
    grad: np.ndarray,
    potential: np.ndarray,
    result: np.ndarray,
    decay: np.float32,
    threshold: np.float32,
    center: np.float32,
    first: int,
    last: int,
) -> None:
    repeated = result.shape[0] == 1
    zero, half = np.float32(0), np.float32(HALF_WIDTH)
    carry = np.zeros(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        carry[:] = zero
        for t in range(potential.shape[0] - 1, -1, -1):
            row = 0 if repeated else t
            for m in range(start, stop):
                u, later = potential[t, m], carry[m - start]
                spike_grad = grad[t, m] - decay * u * later
                value = spike_grad if abs(u - center) < half else zero
                value += zero if u > threshold else decay * later
                carry[m - start] = value
                if repeated:
                    result[row, m] += value
                else:
                    result[row, m] = value


def _in_parts(work: Callable[[int, int], None], count: int) -> None:
    """Call `work(first, last)` for parts of 0..count, one for each of PyTorch's threads where that pays."""
    parts = torch.get_num_threads() if count >= PARALLEL_FROM else 1
    if parts == 1:
        work(0, count)
        return
    edges = [count * i // parts for i in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


class CompiledKernels:
    """Passes for float32 tensors on a CPU."""

    name = "compiled (numba)"

    def forward(self, current: Tensor, steps: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        """Return the potentials and the spikes, both (T, M), of the currents (T or 1, M)."""
        potential = current.new_empty(steps, current.shape[1])
        spikes = torch.empty_like(potential)
        arrays = current.detach().numpy(), potential.numpy(), spikes.numpy()
        decay, threshold = np.float32(dynamics.decay), np.float32(dynamics.threshold)
        _in_parts(lambda first, last: _forward(*arrays, decay, threshold, first, last), current.shape[1])
        return potential, spikes

    def backward(self, grad: Tensor, potential: Tensor, rows: int, dynamics: Dynamics) -> Tensor:
        """Return the gradient of the currents (rows, M) from that of the spikes (T, M)."""
        result = torch.zeros_like(potential[:1]) if rows == 1 else torch.empty_like(potential)
        arrays = grad.detach().numpy(), potential.numpy(), result.numpy()
        decay, threshold, center = map(np.float32, dynamics)
        _in_parts(lambda first, last: _backward(*arrays, decay, threshold, center, first, last), potential.shape[1])
        return result
