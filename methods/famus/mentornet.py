"""MentorNet (Jiang et al. 2018, arXiv 1712.05055) in its simple form: a mentor selects samples with small losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.famus.module import NoisyTraining
from methods.famus.sample_weights import mean_weights


class Mentor(nn.Module):
    """Selects the samples whose loss is below a moving average of a percentile of the batch losses.

    Args:
        percentile: percentile of the losses, as a fraction.
        ema_decay: decay of the exponential moving average.
        burn_in: number of first epochs in which all samples are selected.
    """

    threshold: Tensor

    def __init__(self, percentile: float = 0.7, ema_decay: float = 0.5, burn_in: int = 10) -> None:
        super().__init__()
        for name, value in (("percentile", percentile), ("ema_decay", ema_decay)):
            if not 0 <= value <= 1:
                raise ValueError(f"method.mentor.{name} must be in [0, 1], got {value}")
        self.percentile, self.ema_decay, self.burn_in = percentile, ema_decay, burn_in
        self.register_buffer("threshold", torch.tensor(torch.nan))

    @torch.no_grad()
    def forward(self, losses: Tensor, epoch: int) -> Tensor:
        """Update the threshold, and return 1 for selected samples, 0 for others: (n,) -> (n,)."""
        now = losses.detach().quantile(self.percentile)
        before = torch.where(self.threshold.isnan(), now, self.threshold)
        self.threshold = self.ema_decay * before + (1 - self.ema_decay) * now
        return torch.ones_like(losses) if epoch < self.burn_in else (losses <= self.threshold).to(losses)


class MentorNet(NoisyTraining):
    """Training on the samples that a mentor selects. The published mentor is a trained network instead.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        mentor: mentor that selects samples.
        **options: as in `NoisyTraining`.
    """

    def __init__(self, network: nn.Module, mentor: Mentor, **options: Any) -> None:
        super().__init__(network, **options)
        self.mentor = mentor

    def sample_weights(self, batch: Any, losses: Tensor) -> Tensor:
        """Return the mentor's weights, divided by the batch size."""
        return mean_weights(self.mentor(losses, self.current_epoch))
