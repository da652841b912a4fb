"""Early stopping that keeps the best weights."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Trainer
from torch import Tensor, nn

from datasets.checks import check_not_negative


class BestWeights:
    """Best value of a metric so far, the weights that reached it, and the epochs since.

    Args:
        higher_is_better: whether a higher value is better.
        patience: number of epochs without gain that are tolerated; 0 stops at the first one.
    """

    def __init__(self, higher_is_better: bool, patience: int) -> None:
        check_not_negative("method", patience=patience)
        self.higher_is_better, self.patience = higher_is_better, patience
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self.value: float | None = None
        self.without_gain = 0
        self.state: dict[str, Tensor] = {}

    def update(self, value: float, state: dict[str, Tensor]) -> bool:
        """Record the value after an epoch, and copy the weights if it is the best.

        Args:
            value: value of the metric.
            state: weights at the end of the epoch.

        Returns:
            Whether the value is the best so far.
        """
        better = self.value is None or (value > self.value if self.higher_is_better else value < self.value)
        if better:
            self.value, self.without_gain = value, 0
            self.state = {name: weight.detach().clone() for name, weight in state.items()}
        else:
            self.without_gain += 1
        return better

    def restore(self, module: nn.Module) -> None:
        """Load the best weights.

        Args:
            module: module whose weights were recorded.

        Raises:
            ValueError: no value was recorded.
        """
        if not self.state:
            raise ValueError(
                "no epoch was validated, so that there is no best one: look at max_steps, max_time and "
                "check_val_every_n_epoch"
            )
        module.load_state_dict(self.state)

    @property
    def exhausted(self) -> bool:
        """True if more epochs than tolerated have passed without gain."""
        return self.without_gain > self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {"value": self.value, "without_gain": self.without_gain, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: value, without_gain and state.
        """
        self.value, self.without_gain, self.state = state["value"], state["without_gain"], state["state"]


def training_ends(trainer: Trainer) -> bool:
    """Return whether a training ends with the present epoch: by the number of epochs or steps, the time or a callback.

    Args:
        trainer: trainer, in the hook `on_train_epoch_end`.
    """
    steps_done = 0 <= trainer.max_steps <= trainer.global_step
    return trainer.should_stop or steps_done or trainer.current_epoch + 1 == trainer.max_epochs
