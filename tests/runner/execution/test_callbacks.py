"""Callbacks: the average of the weights, metrics.csv, and callbacks and trackers that do not fit the run."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from runner.errors import Preempted, UserError
from runner.execution.callbacks import FiniteGuard, ProgressLines, WeightEMA
from runner.execution.preemption import SignalsInTest
from runner.execution.record import read_metrics

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
}


class Counting(pl.LightningModule):
    """Has a weight, running statistics, and state of its own in buffers: one changed in place, one replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(1), nn.Linear(1, 1)
        self.state = nn.Module()
        self.state.register_buffer("steps", torch.zeros(()))
        self.register_buffer("epochs", torch.zeros(()))
        self.before: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.state.steps += 1
        return self.layer(self.norm(batch)).pow(2).mean()

    def on_train_batch_end(self, *_) -> None:
        self.before.append(self.layer.weight.detach().clone())

    def validation_step(self, batch: torch.Tensor) -> None:
        self.seen = (self.layer.weight.detach().clone(), self.norm.running_mean.clone(), float(self.state.steps))

    def on_validation_epoch_end(self) -> None:
        self.epochs = self.epochs + 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_average_is_of_weights_alone(tmp_path):
    torch.manual_seed(0)
    module, batches = Counting(), DataLoader(torch.randn(12, 1) + 3, batch_size=3)
    trainer = Trainer(max_epochs=2, callbacks=[WeightEMA(decay=0.5)], default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, batches, batches)
    assert float(module.epochs) == 2
    assert float(module.state.steps) == module.seen[2] == 8
    average = module.before[0]
    for weight in module.before[1:]:
        average = 0.5 * average + 0.5 * weight
    assert torch.allclose(module.seen[0], average)
    assert torch.allclose(module.layer.weight, average)
    assert torch.equal(module.norm.running_mean, module.seen[1])
    saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)
    assert (saved["state_dict"]["epochs"], saved["current_model_state"]["epochs"]) == (2, 2)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/accuracy"], "val/accuracy"),
        (["+logger.x={_target_:os.getcwd}"], "logger.x must be a Logger of pytorch_lightning, got '"),
    ],
)
def test_a_callback_or_tracker_that_does_not_fit_is_one_message(call, tiny, overrides, said):
    code, printed = call(*tiny, *overrides)
    assert code == 2, printed
    assert said in printed
    assert "Traceback" not in printed


def test_a_failure_while_metrics_are_written_anew_loses_no_row(call, tiny, tmp_path, monkeypatch):
    call(*tiny, "schedule.max_epochs=2")
    (folder,) = (path.parent for path in tmp_path.rglob("metrics.csv"))
    rows = read_metrics(folder)
    from runner.execution import callbacks

    recorder = callbacks.Recorder(folder, {})
    recorder.rows = rows
    monkeypatch.setattr("runner.files.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        recorder._write()
    assert read_metrics(folder) == rows


class LeavesStepsOut(pl.LightningModule):
    """Linear regression whose training steps from `first_loss` on have a loss; Lightning leaves the others out."""

    def __init__(self, first_loss: int) -> None:
        super().__init__()
        self.linear, self.first_loss = torch.nn.Linear(2, 1), first_loss

    def training_step(self, batch, batch_idx):
        return self.linear(batch).square().mean() if batch_idx >= self.first_loss else None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("first_loss", "refused"), [(0, False), (3, False), (4, True)])
def test_an_epoch_without_any_loss_ends_the_run(first_loss, refused, tmp_path):
    guarded = {"callbacks": [FiniteGuard()], "enable_checkpointing": False, "default_root_dir": tmp_path}
    trainer = Trainer(max_epochs=1, **guarded, **QUIET)
    with pytest.raises(UserError, match="nothing was learned") if refused else nullcontext():
        trainer.fit(LeavesStepsOut(first_loss), DataLoader(torch.ones(12, 2), batch_size=3))


class RateFalls(LeavesStepsOut):
    """Linear regression whose learning rate is multiplied by a factor after each epoch."""

    def __init__(self, factor: float) -> None:
        super().__init__(first_loss=0)
        self.factor = factor

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.factor)]


@pytest.mark.parametrize(("factor", "refused"), [(0.5, False), (0.0, False), (-1.0, True)])
def test_a_negative_learning_rate_ends_the_run(factor, refused, tmp_path):
    guarded = {"callbacks": [FiniteGuard()], "enable_checkpointing": False, "default_root_dir": tmp_path}
    trainer = Trainer(max_epochs=2, **guarded, **QUIET)
    with pytest.raises(UserError, match=r"learning rate is -0\.1 in epoch 1") if refused else nullcontext():
        trainer.fit(RateFalls(factor), DataLoader(torch.ones(12, 2), batch_size=3))


class WorksInTheTestStage(pl.LightningModule):
    """Sends a signal to its own process at the start of the test stage, and would then work for a minute."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def on_test_start(self) -> None:
        os.kill(os.getpid(), self.number)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.01)
        raise AssertionError("the signal was ignored")

    def test_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize(
    ("number", "job", "requeued", "message"),
    [
        (signal.SIGTERM, None, None, "stopped by SIGTERM"),
        (signal.SIGUSR2, "12", "12", "SIGUSR2 from SLURM, the stage goes on from what it has stored"),
    ],
)
def test_signals_end_work_of_the_test_stage_at_once(number, job, requeued, message, tmp_path, monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    before = signal.getsignal(number)
    trainer = Trainer(callbacks=[SignalsInTest()], default_root_dir=tmp_path, **QUIET)
    with pytest.raises(Preempted, match=message) as ended:
        trainer.test(WorksInTheTestStage(number), DataLoader(torch.ones(2, 1)), verbose=False)
    assert (ended.value.code, ended.value.job) == (128 + signal.SIGTERM, requeued)
    signal.signal(number, before)


@pytest.mark.parametrize("epochs", [2, -1])
def test_a_long_epoch_shows_its_batches(tmp_path, caplog, epochs):
    """Without a least time between lines the first batch has one; the last batch leaves it to the epoch's line."""
    stop = {"max_epochs": epochs} if epochs > 0 else {"max_epochs": -1, "max_steps": 10}
    trainer = Trainer(**stop, default_root_dir=tmp_path, callbacks=[ProgressLines(every_seconds=0.0)], **QUIET)
    with caplog.at_level("INFO", logger="runner.execution.callbacks"):
        trainer.fit(Counting(), DataLoader(torch.randn(10, 1), batch_size=2))
    lines = [record.message for record in caplog.records]
    of_all = "/2" if epochs > 0 else ""
    assert re.match(rf"epoch 1{of_all}, batch 1/5" + (r", \d+ s left" if epochs > 0 else "") + r": loss \d", lines[0])
    assert not any("batch 5/5" in line for line in lines)
    assert sum("batch" not in line for line in lines) == 2
    assert caplog.records[0].underway is True


def test_an_epoch_that_is_soon_over_has_no_lines_of_batches(tmp_path, caplog):
    trainer = Trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=[ProgressLines(every_seconds=3600.0)], **QUIET)
    with caplog.at_level("INFO", logger="runner.execution.callbacks"):
        trainer.fit(Counting(), DataLoader(torch.randn(10, 1), batch_size=2))
    assert [record.message.split(":")[0] for record in caplog.records] == ["epoch 2/2, 0 s left"]
