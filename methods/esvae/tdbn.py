"""Threshold-dependent batch normalisation (Zheng et al., AAAI 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm


class ThresholdBatchNorm(nn.Module):
    """Batch normalisation over samples, places and time steps together, scaled by the threshold of the neurons.

    y = gamma * alpha * threshold * (x - mean) / sqrt(var + eps) + beta: PyTorch's batch normalisation with the weight
    gamma * alpha * threshold. gamma itself is the parameter, since weight decay must act on a value near 1.

    Args:
        channels: number of channels C.
        threshold: firing threshold of the neurons that follow.
        alpha: extra factor; 2 in the prior and posterior networks of FSVAE.
        eps: constant added to the variance.
        momentum: share of the batch in the running statistics.

    Shapes:
        x (B, C, ...) -> (B, C, ...), B being T * N; with `repeats`, x (N, C, ...).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, threshold: float = 0.2, alpha: float = 1.0, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.scale, self.eps, self.momentum = alpha * threshold, eps, momentum

    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        """Normalise a batch.

        Args:
            x: values of all time steps, or of one step that is the same `repeats` times.
            repeats: number of time steps that a row of x stands for. Only the running variance depends on it, by the
                factor n / (n - 1) of the unbiased estimate.
        """
        variance = self.running_var.clone() if self.training and repeats > 1 else self.running_var
        result = batch_norm(
            x,
            self.running_mean,
            variance,
            self.weight * self.scale,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        if variance is not self.running_var:
            n = x.numel() // x.shape[1]
            factor = (repeats * (n - 1)) / (repeats * n - 1)
            with torch.no_grad():
                kept = (1 - self.momentum) * self.running_var
                self.running_var.copy_(kept + (variance - kept) * factor)
        return result
