"""Number of epochs that schedules follow, and a schedule where only the number of steps is given."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from methods.epochs import number_of_epochs
from methods.graphnorm.training import linear_decay


class Line(LightningModule):
    """Linear layer whose rate falls over the epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.rates: list[float] = []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 1.0)
        return [optimizer], [linear_decay(number_of_epochs(self.trainer))(optimizer)]

    def training_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch).square().mean()

    def on_train_epoch_start(self) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])


def fit(tmp_path, **ends) -> list[float]:
    """Train on four batches an epoch; returns the rate of each epoch."""
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    module = Line()
    Trainer(default_root_dir=tmp_path, **options, **ends).fit(module, DataLoader(torch.zeros(8, 1), batch_size=2))
    return module.rates


@pytest.mark.parametrize(
    ("ends", "epochs"),
    [
        ({"max_epochs": 3}, 3),
        ({"max_epochs": -1, "max_steps": 12}, 3),
        ({"max_epochs": -1, "max_steps": 9}, 3),
        ({"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 2}, 2),
        ({"max_epochs": 3, "max_steps": 5}, 3),
    ],
)
def test_schedules_follow_the_epochs_that_the_steps_take(tmp_path, ends, epochs):
    rates = fit(tmp_path, **ends)
    assert rates == pytest.approx([1 - epoch / epochs for epoch in range(len(rates))])
    assert len(rates) == (2 if ends.get("max_steps") in (4, 5) else epochs)


def test_a_training_without_an_end_has_no_schedule(tmp_path):
    with pytest.raises(ValueError, match=r"set schedule.max_epochs or max_steps"):
        fit(tmp_path, max_epochs=-1, max_time={"seconds": 5})
