"""Methods that optimize by hand say before training which options of the trainer they cannot take."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from methods.manual_optimization import ManualOptimization


class Descent(ManualOptimization):
    """One weight that falls to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.w**2)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(**options) -> Descent:
    module = Descent()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_steps=3, accelerator="cpu", **quiet, **options).fit(module, torch.utils.data.DataLoader(range(3)))
    return module


def test_it_trains():
    assert fit().w.item() == pytest.approx(0.8**3)
    assert Descent.automatic_optimization is False  # visible before a module is built


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gradient_clip_val": 1.0}, "trainer.gradient_clip_val=1.0 does not work with this method"),
        ({"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches=2 does not work with this method"),
    ],
)
def test_clipping_and_accumulation_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        fit(**options)
