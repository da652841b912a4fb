"""MentorNet (Jiang et al. 2018, arXiv 1712.05055) in its simple form: a mentor selects samples with small losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from methods.famus.module import NoisyTraining
from methods.famus.sample_weights import mean_weights

EMA_DECAY = 0.9999


class Mentor(nn.Module):
    """Selects the samples whose loss is below a moving average of a percentile of the batch losses.

    The average starts at the first percentile; the published one starts at 0, which no longer shows after the burn-in.

    Args:
        percentile: percentile of the losses, as a fraction.
        ema_decay: decay of the exponential moving average.
        burn_in: fraction of the training steps, from the first on, in which all samples are selected.
    """

    threshold: Tensor

    def __init__(self, percentile: float = 0.7, ema_decay: float = 0.5, burn_in: float = 0.09) -> None:
        super().__init__()
        for name, value in (("percentile", percentile), ("ema_decay", ema_decay), ("burn_in", burn_in)):
            if not 0 <= value <= 1:
                raise ValueError(f"method.mentor.{name} must be in [0, 1], got {value}")
        self.percentile, self.ema_decay, self.burn_in = percentile, ema_decay, burn_in
        self.register_buffer("threshold", torch.tensor(torch.nan))

    @torch.no_grad()
    def forward(self, losses: Tensor, progress: float) -> Tensor:
        """Update the threshold, and return 1 for selected samples, 0 for others.

        Args:
            losses: per-sample losses (n,).
            progress: fraction of the training steps that are done.

        Returns:
            Selection (n,).
        """
        now = losses.detach().quantile(self.percentile)
        before = torch.where(self.threshold.isnan(), now, self.threshold)
        self.threshold = self.ema_decay * before + (1 - self.ema_decay) * now
        return torch.ones_like(losses) if progress < self.burn_in else (losses <= self.threshold).to(losses)


def decayed_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups in which only weights of convolutions and linear layers have weight decay.

    Args:
        network: network whose parameters are grouped.
        weight_decay: weight decay of tensors with two or more dimensions; norms and biases have none.
    """
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def average_parameters(average: Any, current: Any, updates: Tensor | int) -> None:
    """Update an exponential moving average in place, with decay min(0.9999, (1 + t) / (10 + t)) as in TensorFlow.

    Args:
        average: list of averages.
        current: list of current values, of the same shapes.
        updates: number of updates t before this one.
    """
    decay = min(EMA_DECAY, (1 + int(updates)) / (10 + int(updates)))
    torch._foreach_lerp_(average, current, 1 - decay)


class MentorTraining(NoisyTraining):
    """Training of MentorNet's and MentorMix's published code.

    SGD decays the weights of convolutions and linear layers only, and an exponential moving average of the parameters
    is evaluated, with the batch norm statistics of the last step. The first update of the average copies.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        weight_decay: weight decay of convolutions and linear layers.
        **options: as in `NoisyTraining`.
    """

    def __init__(self, network: nn.Module, weight_decay: float = 0.0002, **options: Any) -> None:
        super().__init__(network, weight_decay=weight_decay, **options)
        self.average = AveragedModel(self.network, multi_avg_fn=average_parameters)

    @property
    def eval_network(self) -> nn.Module:
        """Network with averaged parameters."""
        return self.average

    @property
    def progress(self) -> float:
        """Fraction of the training steps that are done."""
        return self.global_step / self.trainer.estimated_stepping_batches

    def configure_optimizers(self) -> Any:
        """Return SGD, with weight decay for some parameters, and its scheduler."""
        options = dict(self.sgd_options)
        groups = decayed_groups(self.network, options.pop("weight_decay"))
        optimizer = torch.optim.SGD(groups, self.lr, **options)
        return [optimizer], [self.scheduler(optimizer)] if self.scheduler else []

    def update_network(self, loss: Tensor) -> None:
        """Take a step of the optimizer, and update the average."""
        super().update_network(loss)
        self.average.update_parameters(self.network)


class MentorNet(MentorTraining):
    """Training on the samples that a mentor selects. The published mentor is a trained network instead.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        mentor: mentor that selects samples.
        weight_decay: weight decay of convolutions and linear layers.
        **options: as in `NoisyTraining`.
    """

    def __init__(self, network: nn.Module, mentor: Mentor, weight_decay: float = 0.0002, **options: Any) -> None:
        super().__init__(network, weight_decay, **options)
        self.mentor = mentor

    def sample_weights(self, batch: Any, losses: Tensor) -> Tensor:
        """Return the mentor's weights, divided by the batch size."""
        return mean_weights(self.mentor(losses, self.progress))
