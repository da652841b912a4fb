"""Learning rate schedules of published scripts that torch does not have."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_multistep(
    optimizer: Optimizer, warmup_epochs: int, milestones: Sequence[int], factors: Sequence[float]
) -> LambdaLR:
    """Return a schedule with linear warm-up and a factor of its own for each milestone (LDAM-DRW's code).

    Args:
        optimizer: optimizer whose learning rate is scheduled, once an epoch.
        warmup_epochs: number of epochs in which the rate rises; in epoch e (from 0) it is lr (e + 1) / warmup_epochs.
        milestones: epochs, from 0 and ascending, at which the rate changes.
        factors: factor of lr from each milestone on.

    Returns:
        The scheduler.

    Raises:
        ValueError: milestones and factors differ in number.
    """
    if len(milestones) != len(factors):
        raise ValueError(
            f"method.scheduler has {len(milestones)} milestones and {len(factors)} factors; give one factor a milestone"
        )

    def factor(epoch: int) -> float:
        passed = sum(epoch >= milestone for milestone in milestones)
        return factors[passed - 1] if passed else min(1.0, (epoch + 1) / max(warmup_epochs, 1))

    return LambdaLR(optimizer, factor)
