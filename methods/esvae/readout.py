"""Readouts: how the output currents of all time steps become one image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def membrane_weights(steps: int, decay: float = 0.8) -> Tensor:
    """Return the weight decay^(T-1-t) of each step (T,): the last potential of a leaky integrator that never fires."""
    return decay ** torch.arange(steps - 1, -1, -1, dtype=torch.float32)


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over time of x (T, ...) with the weights (T,)."""
    return torch.tensordot(weights.to(x.dtype), x, dims=1)


class MembraneReadout(nn.Module):
    """Last layer and non-firing leaky integrator, tanh of its last potential.

    The layer is linear, so the inputs are summed over time first and pass the layer once: T times cheaper than, and
    equal to, the sum of its outputs. The bias is multiplied by the sum of the weights.

    Args:
        layer: transposed convolution with bias, without normalisation and neurons.
        steps: number of time steps T.
        decay: factor of the potential from step to step.

    Shapes:
        spikes (T, N, C_in, H, W) -> images (N, C, H, W) in (-1, 1).
    """

    weights: Tensor

    def __init__(self, layer: nn.ConvTranspose2d, steps: int, decay: float = 0.8) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("weights", membrane_weights(steps, decay), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images."""
        if self.layer.bias is None:
            raise ValueError("the last layer needs a bias")
        y = self.layer(weighted_sum(x, self.weights))
        return torch.tanh(y + (self.weights.sum() - 1) * self.layer.bias[:, None, None])


class AttentionReadout(nn.Module):
    """Temporal attention of TAID (Qiu et al. 2023): a learned weight for each sample, channel and step.

    The mean currents of all steps are mixed by a learned T x T matrix; their sigmoid weighs the steps. The official
    code also creates a second convolution, which it never uses; it is left out.

    Args:
        layer: transposed convolution with bias, without normalisation and neurons.
        steps: number of time steps T.

    Shapes:
        spikes (T, N, C_in, H, W) -> images (N, C, H, W) in (-1, 1).
    """

    def __init__(self, layer: nn.ConvTranspose2d, steps: int) -> None:
        super().__init__()
        self.layer = layer
        self.mixing = nn.Conv1d(steps, steps, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images."""
        y = self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        attention = self.mixing(y.mean((3, 4)).transpose(0, 1)).sigmoid()  # (N, T, C)
        return torch.tanh(torch.einsum("ntc,tnchw->nchw", attention, y))
