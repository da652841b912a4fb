"""Learning rates as published scripts change them, asked for after every epoch."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmed_steps(optimizer: Optimizer, warmup: int, milestones: Sequence[int], factors: Sequence[float]) -> LambdaLR:
    """lr (e + 1) / warmup in the first epochs, then lr, and from each milestone on lr times its factor."""
    if len(milestones) != len(factors):
        raise ValueError(f"method.scheduler has {len(milestones)} milestones and {len(factors)} factors")

    def factor(epoch: int) -> float:
        passed = sum(epoch >= milestone for milestone in milestones)
        return factors[passed - 1] if passed else min(1.0, (epoch + 1) / max(warmup, 1))

    return LambdaLR(optimizer, factor)
