"""Spike trains drawn from firing rates, with gradients (section "Poisson spiking sampling" of the paper)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_positive

HALF_WIDTH = 0.5
GRADIENTS = ("rectangle", "straight_through")


class _Bernoulli(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rates: Tensor, uniform: Tensor, straight_through: bool) -> Tensor:
        spikes = rates.unsqueeze(0) > uniform
        window = None if straight_through else (rates.unsqueeze(0) - uniform).abs() < HALF_WIDTH
        ctx.save_for_backward(*([] if window is None else [window]))
        return spikes.to(rates.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0]
        if ctx.saved_tensors:
            grad = grad * ctx.saved_tensors[0]
        return grad.sum(0), None, None


def bernoulli_spikes(rates: Tensor, uniform: Tensor, gradient: str = "rectangle") -> Tensor:
    """Return spikes that occur in each step with the probability given by the rate.

    The number of spikes in T steps is binomial: the usual discrete form of a Poisson process with r spikes a step.

    Args:
        rates: firing rates in [0, 1].
        uniform: noise, uniform in [0, 1), float32 or wider. bfloat16 noise would round the rates.
        gradient: "rectangle" for dz/dr = 1[|r - U| < 0.5], as in the official code; "straight_through" for dz/dr = 1.

    Shapes:
        rates (N, D), uniform (T, N, D) -> spikes (T, N, D), 0 or 1.
    """
    check_choice("model.sampler.gradient", gradient, GRADIENTS)
    return _Bernoulli.apply(rates, uniform, gradient == "straight_through")


class BernoulliSampler(nn.Module):
    """Poisson spiking sampling of the paper: each step draws fresh uniform noise and compares it with the rate.

    Sampling stays random in evaluation, as in the official code.

    Args:
        gradient: "rectangle" (official code) or "straight_through".

    Shapes:
        rates (N, D) -> spikes (T, N, D).
    """

    def __init__(self, gradient: str = "rectangle") -> None:
        super().__init__()
        check_choice("model.sampler.gradient", gradient, GRADIENTS)
        self.gradient = gradient

    def forward(self, rates: Tensor, steps: int) -> Tensor:
        """Return spikes of `steps` time steps."""
        rates = rates.float() if rates.dtype in (torch.bfloat16, torch.float16) else rates
        # In the order of the official code, (N, D, T), so that the same generator draws the same noise.
        uniform = torch.rand(*rates.shape, steps, dtype=rates.dtype, device=rates.device)
        return bernoulli_spikes(rates, uniform.movedim(-1, 0), self.gradient)


class PoissonSampler(nn.Module):
    """True Poisson counts by exponential arrival times (Vafaii et al., NeurIPS 2024). An extension of ours.

    For each step and neuron, exponential intervals of the neuron's rate are added up, and the arrivals before time 1
    are counted. In training each comparison is a sigmoid of the given temperature, so that gradients pass; in
    evaluation counts are whole. Several spikes may fall into one step.

    Args:
        temperature: width of the sigmoid, in units of time.
        arrivals: largest count of a step. With rates up to 1, more than 6 arrivals have a probability below 1e-4.

    Shapes:
        rates (N, D) -> counts (T, N, D).
    """

    def __init__(self, temperature: float = 0.1, arrivals: int = 6) -> None:
        super().__init__()
        check_positive("model.sampler", temperature=temperature, arrivals=arrivals)
        self.temperature, self.arrivals = temperature, arrivals

    def forward(self, rates: Tensor, steps: int) -> Tensor:
        """Return counts of `steps` time steps."""
        unit = torch.empty(self.arrivals, steps, *rates.shape, dtype=rates.dtype, device=rates.device).exponential_()
        times = unit.cumsum(0) / rates.clamp_min(1e-6)
        if self.training:
            return ((1 - times) / self.temperature).sigmoid().sum(0)
        return (times < 1).to(rates.dtype).sum(0)
