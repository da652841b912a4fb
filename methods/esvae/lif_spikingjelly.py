"""The same neurons from SpikingJelly (an optional dependency), to check ours against a library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.esvae.lif_eager import HALF_WIDTH, Dynamics


class _Rectangle(torch.autograd.Function):
    """Spike of a potential above threshold; its gradient is a rectangle around any centre."""

    @staticmethod
    def forward(ctx: Any, over: Tensor, offset: float) -> Tensor:
        ctx.save_for_backward(over)
        ctx.offset = offset
        return (over > 0).to(over)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (over,) = ctx.saved_tensors
        return grads[0] * ((over + ctx.offset).abs() < HALF_WIDTH), None


def spikingjelly_neuron(dynamics: Dynamics) -> nn.Module:
    """Return SpikingJelly's multi-step LIF neuron with our constants and our surrogate gradient.

    Its own surrogates fire at u >= threshold and are centred on the threshold; ours fires at u > threshold and has
    the centre of `dynamics`.

    Raises:
        ImportError: SpikingJelly is not installed.
    """
    try:
        from spikingjelly.activation_based import neuron
    except ImportError as error:
        raise ImportError(
            f"model.neuron.backend=spikingjelly needs SpikingJelly ({error}). Install it without its dependencies, "
            "which would replace torch: pip install --no-deps spikingjelly loguru"
        ) from error

    if not 0 < dynamics.decay < 1:
        raise ValueError(
            f"model.neuron.backend=spikingjelly needs a decay between 0 and 1, got {dynamics.decay}: its tau is "
            "1 / (1 - decay), above 1"
        )
    offset = dynamics.threshold - dynamics.center
    return neuron.LIFNode(
        tau=1 / (1 - dynamics.decay),
        decay_input=False,
        v_threshold=dynamics.threshold,
        v_reset=0.0,
        surrogate_function=lambda over: _Rectangle.apply(over, offset),
        detach_reset=False,
        step_mode="m",
    )


def run_from_rest(neuron: Any, current: Tensor) -> Tensor:
    """Return the spikes (T, ...) of the currents (T, ...), starting at rest."""
    from spikingjelly.activation_based import functional

    functional.reset_net(neuron)
    return neuron(current)
