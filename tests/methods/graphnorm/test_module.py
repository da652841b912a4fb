"""GraphClassifier under a real Trainer: schedule, metrics, the curve's summary."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from datasets.graphs.datamodule import AtlasGraphs
from methods.graphnorm.module import GraphClassifier, curve_metrics
from methods.graphnorm.networks import GIN
from methods.graphnorm.training import linear_decay

ROOT = Path(__file__).parents[3]


class Watch(Callback):
    """The learning rate of every epoch, and the metrics after the last."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.metrics: dict[str, float] = {}

    def on_train_epoch_start(self, trainer, module) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_fit_end(self, trainer, module) -> None:
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


def small_network(dropout: float = 0.0, **kwargs) -> GIN:
    torch.manual_seed(0)
    return GIN(6, 2, hidden=8, layers=2, dropout=dropout, **kwargs)


def trainer(epochs: int, *callbacks: Callback, **kwargs) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **kwargs,
    )


@pytest.fixture(scope="module")
def fitted():
    """Four epochs on the atlas: module, data, what was watched, the trainer."""
    data, watch = AtlasGraphs(batch_size=256), Watch()
    module = GraphClassifier(small_network(dropout=0.5), lr=0.02)
    train = trainer(4, watch)
    train.fit(module, data)
    return module, data, watch, train


def evaluate(module: GraphClassifier, data: AtlasGraphs, part: str) -> tuple[float, float]:
    """Mean loss and accuracy of a part, seven graphs at a time."""
    module.eval()
    with torch.no_grad():
        logits = torch.cat([module.network(data.store.select(index)) for index in data.parts[part].split(7)])
    y = data.store.y[data.parts[part]]
    return nn.functional.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def test_the_rate_falls_linearly_once_an_epoch(fitted):
    assert fitted[2].rates == pytest.approx([0.02, 0.015, 0.01, 0.005])


def test_linear_decay_ends_at_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = linear_decay(400)(optimizer)
    rates = []
    for _ in range(402):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([max(0, (400 - e) / 400) for e in range(402)])
    assert rates[399] > rates[400] == rates[401] == 0


def test_another_scheduler_takes_its_place():
    watch = Watch()
    module = GraphClassifier(
        small_network(), lr=0.08, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.5)
    )
    trainer(5, watch, limit_train_batches=1, limit_val_batches=0).fit(module, AtlasGraphs())
    assert watch.rates == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02])


def test_watched_metrics_are_those_of_the_parts_in_eval_mode(fitted):
    module, data, watch, _ = fitted
    for part in ("val", "train"):
        loss, acc = evaluate(module, data, part)
        assert watch.metrics[f"{part}/loss"] == pytest.approx(loss, rel=1e-3)
        assert watch.metrics[f"{part}/acc"] == pytest.approx(acc, abs=1e-6)
    assert module.curve[-1] == pytest.approx(watch.metrics["train/acc"])
    assert len(module.curve) == 4
    assert watch.metrics["train/batch_loss"] > 0
    norm = nn.utils.parameters_to_vector(module.network.parameters()).norm().item()
    assert watch.metrics["train/param_norm"] == pytest.approx(norm, rel=1e-5)


def test_test_metrics(fitted):
    module, data, watch, train = fitted
    (metrics,) = train.test(module, data, verbose=False)
    loss, acc = evaluate(module, data, "test")
    assert metrics["test/loss"] == pytest.approx(loss, rel=1e-3)
    assert metrics["test/acc"] == pytest.approx(acc, abs=1e-6) == pytest.approx(watch.metrics["val/acc"])
    assert metrics["test/train_acc_auc"] == pytest.approx(sum(module.curve) / 4)


def test_a_step_is_adams_on_the_mean_cross_entropy():
    data = AtlasGraphs(batch_size=1000)
    data.setup()
    watch, module, network = Watch(), GraphClassifier(small_network(), lr=0.01, weight_decay=0.05), small_network()
    trainer(1, watch).fit(module, data)
    batch = data.store.select(data.parts["train"])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.05)
    loss = nn.functional.cross_entropy(network(batch), batch.y)
    loss.backward()
    optimizer.step()
    assert watch.metrics["train/batch_loss"] == pytest.approx(loss.item(), rel=1e-4)
    grads = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    assert watch.metrics["train/grad_norm"] == pytest.approx(grads.norm().item(), rel=1e-3)
    for (name, ours), theirs in zip(module.network.named_parameters(), network.parameters(), strict=True):
        if "lin1.bias" not in name:  # its gradient is 0 but for rounding (a norm follows), which Adam blows up
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=2e-3)


def test_without_evaluating_the_training_part_there_is_no_curve():
    module, data = GraphClassifier(small_network()), AtlasGraphs(evaluate_train=False)
    train = trainer(1, limit_train_batches=1)
    train.fit(module, data)
    (metrics,) = train.test(module, data, verbose=False)
    assert module.curve == []
    assert set(metrics) == {"test/loss", "test/acc"}


def test_a_resumed_run_keeps_its_curve(fitted, tmp_path):
    module, data, _, train = fitted
    train.save_checkpoint(tmp_path / "last.ckpt")
    resumed = GraphClassifier(small_network(dropout=0.5), lr=0.02)
    trainer(6).fit(resumed, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.curve[:4] == module.curve
    assert len(resumed.curve) == 6


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Each takes its share of every batch; gradients and metrics are those of the whole.

    With LayerNorm, since after GraphNorm the sign of a rounding error decides a ReLU on the atlas's regular graphs.
    """
    rows = {}
    for name in ("cpu", "ddp"):
        arguments = ["method=graphnorm/layer", "dataset=atlas", "schedule.max_epochs=2", "model.dropout=0"]
        arguments += ["logger=csv", "trainer.precision=64-true"]
        where = [f"trainer={name}", "trainer.accelerator=cpu", f"paths.outputs={tmp_path / name}"]
        subprocess.run([sys.executable, "-m", "runner", *arguments, *where], cwd=ROOT, check=True, capture_output=True)
        (path,) = tmp_path.glob(f"{name}/**/metrics.csv")
        rows[name] = [dict(row) for row in csv.DictReader(path.open())]
    assert len(rows["cpu"]) == len(rows["ddp"]) == 2
    for one, two in zip(rows["cpu"], rows["ddp"], strict=True):
        for key in one.keys() - {"seconds"}:
            assert float(two[key]) == pytest.approx(float(one[key]), rel=1e-5), key


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precisions_train_alike(precision):
    curves = []
    for p in ("32-true", precision):
        watch, module = Watch(), GraphClassifier(small_network(), lr=0.01)
        trainer(3, watch, precision=p).fit(module, AtlasGraphs(batch_size=256))
        curves.append(watch.metrics["train/loss"])
        assert module.network.classifiers[0].weight.dtype == (torch.float64 if p == "64-true" else torch.float32)
    assert curves[0] == pytest.approx(curves[1], rel=0.1)
    assert curves[0] < 0.69


def test_summary_of_a_curve():
    assert curve_metrics([]) == {}
    assert curve_metrics([0.5, 0.7]) == {"test/train_acc_auc": pytest.approx(0.6)}
    assert curve_metrics([0.5, 0.9, 0.8, 0.96, 0.94]) == {
        "test/train_acc_auc": pytest.approx(0.82),
        "test/epochs_to_90": 2.0,
        "test/epochs_to_95": 4.0,
    }
    assert curve_metrics([1.0]) == {
        "test/train_acc_auc": 1.0,
        "test/epochs_to_90": 1.0,
        "test/epochs_to_95": 1.0,
        "test/epochs_to_99": 1.0,
    }


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": -1.0}, {"weight_decay": -0.1}])
def test_bad_arguments_are_named(wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"method\.{key}.*{value}"):
        GraphClassifier(small_network(), **wrong)
