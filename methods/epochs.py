"""Number of epochs of a training, for schedules that follow it."""

from __future__ import annotations

import math

from pytorch_lightning import Trainer


def number_of_epochs(trainer: Trainer) -> int:
    """Return the number of epochs of a training: `max_epochs`, or if that is -1 as many as `max_steps` takes.

    Args:
        trainer: trainer whose training has begun, or is being set up.

    Raises:
        ValueError: neither is given, so that the training has no end that a schedule could follow.
    """
    epochs = trainer.max_epochs
    if epochs is not None and epochs > 0:
        return epochs
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError("the method's schedules follow the number of epochs: set schedule.max_epochs or max_steps")
    trainer.fit_loop.setup_data()  # as for estimated_stepping_batches: the optimizers are made before it
    return max(math.ceil(steps * trainer.accumulate_grad_batches / trainer.num_training_batches), 1)
