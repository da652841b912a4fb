"""Base class of methods that call their optimizers themselves (Lightning's manual optimization)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class ManualOptimization(pl.LightningModule):
    """Module whose `training_step` calls `backward` and the optimizers.

    The class attribute `automatic_optimization` is False, so that options that need automatic optimization can be
    refused before a module is built.
    """

    automatic_optimization = False  # type: ignore[assignment]

    def configure_callbacks(self) -> list[Any]:
        """Check the trainer's options; Lightning calls this first of all."""
        check_trainer_options(self.trainer)
        return []


def check_trainer_options(trainer: pl.Trainer) -> None:
    """Raise ValueError if a trainer clips or accumulates gradients, which needs automatic optimization.

    Args:
        trainer: trainer of a module with manual optimization.

    Raises:
        ValueError: `gradient_clip_val` is positive, or `accumulate_grad_batches` is not 1.
    """
    refused = {}
    if trainer.gradient_clip_val:
        refused["gradient_clip_val"] = trainer.gradient_clip_val
    if trainer.accumulate_grad_batches != 1:
        refused["accumulate_grad_batches"] = trainer.accumulate_grad_batches
    if refused:
        keys = ", ".join(f"trainer.{name}={value}" for name, value in refused.items())
        raise ValueError(
            f"{keys} does not work with this method, which takes its optimization steps itself: leave it out"
        )
