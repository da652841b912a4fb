"""Leaky integrate-and-fire neurons over several time steps, time first, with a hand-written backward pass.

Membrane potential and spike of step t, with u_0 = 0 and o_0 = 0 (`snn_layers.py` of the official code):

    u_t = decay * u_{t-1} * (1 - o_{t-1}) + x_t
    o_t = 1 if u_t > threshold else 0

The reset is hard and takes part in the gradient. The derivative of a spike is replaced by a rectangle of width 1 and
height 1, do/du = 1[|u - center| < 0.5]. The official code centres it on zero ("membrane"), the usual formula
(STBP, tdBN) on the threshold.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_positive
from methods.esvae.lif_eager import EAGER, Dynamics, Kernels

log = logging.getLogger(__name__)

CENTERS = ("membrane", "threshold")
BACKENDS = ("native", "spikingjelly")


@functools.lru_cache(maxsize=16)
def kernels_for(device_type: str, dtype: torch.dtype) -> Kernels:
    """Return the fastest kernels for tensors of a device and type, and log their name once.

    CPU tensors of float32 take a loop compiled by numba, CUDA tensors of float32 a Triton kernel where Triton is
    installed, all others PyTorch operations.
    """
    chosen: Kernels = EAGER
    if dtype == torch.float32 and device_type == "cpu":
        from methods.esvae.lif_compiled import CompiledKernels

        chosen = CompiledKernels()
    elif dtype == torch.float32 and device_type == "cuda" and importlib.util.find_spec("triton"):
        from methods.esvae.lif_triton import TritonKernels

        chosen = TritonKernels()
    log.info("LIF neurons on %s, %s: %s kernels", device_type, dtype, chosen.name)
    return chosen


class _MultiStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, steps: int, dynamics: Dynamics, kernels: Kernels) -> Tensor:
        potential, spikes = kernels.forward(current.flatten(1).contiguous(), steps, dynamics)
        ctx.save_for_backward(potential)
        ctx.rows, ctx.shape, ctx.dynamics, ctx.kernels = len(current), current.shape, dynamics, kernels
        return spikes.view(steps, *current.shape[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (potential,) = ctx.saved_tensors
        grad = grads[0].reshape(len(potential), -1).contiguous()
        result = ctx.kernels.backward(grad, potential, ctx.rows, ctx.dynamics)
        return result.view(ctx.shape), None, None, None


def lif(current: Tensor, steps: int, dynamics: Dynamics, kernels: Kernels | None = None) -> Tensor:
    """Return the spikes of neurons that start at rest.

    Args:
        current: input currents of all steps, or of one step that is repeated.
        steps: number of time steps T.
        dynamics: constants of the neuron.
        kernels: implementation of the passes; None: the fastest for the device and type.

    Shapes:
        current (T, ...) or (1, ...) -> spikes (T, ...), 0 or 1, of the same type; bfloat16 and float16 become float32,
        since a rounded potential near the threshold changes spikes.

    Raises:
        ValueError: steps is below 1, or the currents have another number of steps.
    """
    if steps < 1:
        raise ValueError(f"the number of time steps must be at least 1, got {steps}")
    if len(current) not in (1, steps):
        raise ValueError(f"currents have {len(current)} time steps, expected {steps} (or 1, repeated)")
    if current.dtype in (torch.bfloat16, torch.float16):
        current = current.float()
    return _MultiStep.apply(current, steps, dynamics, kernels or kernels_for(current.device.type, current.dtype))


def lif_step(current: Tensor, state: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """Return the spikes of one step and the state for the next, without a surrogate gradient.

    Args:
        current: input currents of this step.
        state: decayed and reset potential of the step before, `decay * u * (1 - o)`; zeros at the start.
        dynamics: constants of the neuron.

    Shapes:
        current (...), state (...) -> spikes (...), state (...).
    """
    potential = state + current
    spikes = (potential > dynamics.threshold).to(current.dtype)
    return spikes, dynamics.decay * potential * (1 - spikes)


class LIF(nn.Module):
    """Layer of leaky integrate-and-fire neurons; each forward pass starts at rest.

    Args:
        decay: factor of the membrane potential from step to step.
        threshold: potential above which a neuron fires.
        surrogate: centre of the rectangular surrogate gradient: "membrane" (zero, as in the official code) or
            "threshold" (as in the usual formula).
        backend: "native", or "spikingjelly" for the neurons of that library.

    Shapes:
        (T, ...) -> (T, ...); with `steps`, also (1, ...) -> (steps, ...).

    Raises:
        ValueError: an argument is out of range.
        ImportError: the backend is not installed.
    """

    def __init__(
        self, decay: float = 0.25, threshold: float = 0.2, surrogate: str = "membrane", backend: str = "native"
    ) -> None:
        super().__init__()
        check_positive("model.neuron", threshold=threshold)
        check_choice("model.neuron.surrogate", surrogate, CENTERS)
        check_choice("model.neuron.backend", backend, BACKENDS)
        if not 0 <= decay <= 1:
            raise ValueError(f"model.neuron.decay must lie in [0, 1], got {decay}")
        self.dynamics = Dynamics(decay, threshold, 0.0 if surrogate == "membrane" else threshold)
        self.library: nn.Module | None = None
        if backend == "spikingjelly":
            from methods.esvae.lif_spikingjelly import spikingjelly_neuron

            self.library = spikingjelly_neuron(self.dynamics)

    def forward(self, current: Tensor, steps: int | None = None) -> Tensor:
        """Return the spikes of all steps.

        Args:
            current: input currents of all steps, or of one step that is repeated.
            steps: number of time steps; None: as many as `current` has.
        """
        steps = len(current) if steps is None else steps
        if self.library is None:
            return lif(current, steps, self.dynamics)
        from methods.esvae.lif_spikingjelly import run_from_rest

        return run_from_rest(self.library, current.expand(steps, *current.shape[1:]))

    def extra_repr(self) -> str:
        """Return the constants."""
        decay, threshold, center = self.dynamics
        return f"decay={decay}, threshold={threshold}, surrogate center={center}"
