"""Ranks of matrices: by energy, and by the analytic solution of empirical variational Bayes (EVBMF)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def energy_rank(singular_values: Tensor, energy: float) -> int:
    """Return the smallest rank whose singular values hold a share of the sum of squares."""
    share = singular_values.double().square().cumsum(0) / singular_values.double().square().sum()
    return min(int((share < energy - 1e-12).sum()) + 1, len(singular_values))


def golden_section(f: Callable[[float], float], low: float, high: float, iterations: int = 200) -> float:
    """Return a minimum of a function of one variable in an interval."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    f_a, f_b = f(a), f(b)
    for _ in range(iterations):
        if f_a < f_b:
            high, b, f_b = b, a, f_a
            a = high - ratio * (high - low)
            f_a = f(a)
        else:
            low, a, f_a = a, b, f_b
            b = low + ratio * (high - low)
            f_b = f(b)
        if high - low <= 1e-12 * max(abs(high), 1e-300):
            break
    return (low + high) / 2


def evbmf_rank(matrix: Tensor) -> tuple[int, float]:
    """Return rank and noise variance of a matrix by EVBMF (Nakajima et al. 2013, theorem 2 and corollary 2).

    The noise variance minimises the free energy over the interval that the theory allows; it may have several minima,
    so a grid is searched before the golden section.

    Args:
        matrix: (L, M).

    Returns:
        Number of singular values above the threshold sqrt(M v x), and v.
    """
    matrix = matrix.detach().double()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    rows, columns = matrix.shape
    s = torch.linalg.svdvals(matrix)
    alpha = rows / columns
    tau_bar = 2.5129 * math.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    if not float(s.sum()):
        return 0, 0.0
    effective = min(math.ceil(rows / (1 + alpha)) - 1, rows) - 1
    tail = s[effective + 1 :]
    high = float(s.square().sum()) / (rows * columns)
    low = max(float(tail[0].square()) / (columns * x_bar), float(tail.square().mean()) / columns) if len(tail) else 0.0
    low = max(low, high * 1e-12)

    def free_energy(log_v: float) -> float:
        v = math.exp(log_v)
        x = s.square() / (columns * v)
        small, large = x[x <= x_bar], x[x > x_bar]
        root = ((large - (1 + alpha)).square() - 4 * alpha).clamp(min=0).sqrt()
        tau = (large - (1 + alpha) + root) / 2
        cost = (small - small.clamp(min=1e-300).log()).sum() + (large - tau).sum()
        cost = cost + (((tau + 1) / large).log() + alpha * (tau / alpha + 1).log()).sum()
        return float(cost) + (rows - len(s)) * log_v

    grid = torch.linspace(math.log(low), math.log(max(high, low * (1 + 1e-9))), 60).tolist()
    best = min(range(len(grid)), key=lambda i: free_energy(grid[i]))
    bracket = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    v = math.exp(golden_section(free_energy, *bracket))
    return int((s > math.sqrt(columns * v * x_bar)).sum()), v
