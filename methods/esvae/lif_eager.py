"""Constants of leaky integrate-and-fire neurons, and their two passes made of PyTorch operations."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

HALF_WIDTH = 0.5  # of the rectangular surrogate gradient


class Dynamics(NamedTuple):
    """Constants of a neuron.

    Args:
        decay: factor of the membrane potential from step to step.
        threshold: potential above which the neuron fires.
        center: centre of the rectangular surrogate gradient, in units of the potential.
    """

    decay: float = 0.25
    threshold: float = 0.2
    center: float = 0.0


class Kernels(Protocol):
    """Implementation of the two passes.

    Inputs of one time step stand for a constant current, repeated at each of the `steps`.
    """

    name: str

    def forward(self, current: Tensor, steps: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        """Return the potentials and the spikes, both (T, M), of the currents (T or 1, M)."""

    def backward(self, grad: Tensor, potential: Tensor, rows: int, dynamics: Dynamics) -> Tensor:
        """Return the gradient of the currents (rows, M) from that of the spikes (T, M)."""


class EagerKernels:
    """Passes made of PyTorch operations: any device, any floating-point type."""

    name = "eager"

    def forward(self, current: Tensor, steps: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        """Return the potentials and the spikes, both (T, M), of the currents (T or 1, M)."""
        potential = current.new_empty(steps, current.shape[1])
        spikes = torch.empty_like(potential)
        left = torch.zeros_like(potential[0])
        for t in range(steps):
            torch.add(left, current[t if len(current) > 1 else 0], out=potential[t])
            torch.gt(potential[t], dynamics.threshold, out=spikes[t])
            left = torch.mul(potential[t], dynamics.decay).mul_(1 - spikes[t])
        return potential, spikes

    def backward(self, grad: Tensor, potential: Tensor, rows: int, dynamics: Dynamics) -> Tensor:
        """Return the gradient of the currents (rows, M) from that of the spikes (T, M)."""
        decay, threshold, center = dynamics
        result = torch.zeros_like(potential[:rows])
        carry = torch.zeros_like(potential[0])
        for t in reversed(range(len(potential))):
            u = potential[t]
            spike_grad = grad[t] - decay * u * carry
            window = (u - center).abs() < HALF_WIDTH
            carry = spike_grad * window + decay * (u <= threshold) * carry
            result[t if rows > 1 else 0] += carry
        return result


EAGER = EagerKernels()
