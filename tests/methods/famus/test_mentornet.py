"""MentorNet and MentorMix as their code trains them: burn-in, weight decay, averaged weights, second re-weighting."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from datasets.images.datamodule import Digits
from methods.famus.mentormix import MentorMix
from methods.famus.mentornet import Mentor, MentorNet
from tests.methods.networks import small_network


class Record(pl.Callback):
    """Weights and selected samples after every step."""

    def __init__(self) -> None:
        self.weights: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.weights.append([p.detach().clone() for p in module.network.parameters()])


def trained(module, epochs: int, record: Record):
    data = Digits(size=8, batch_size=100, limit_train=500, limit_test=50, validate_on_test=True)
    data.setup()
    module.prepare(data)
    pl.seed_everything(5, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_model_summary=False,
        callbacks=[record],
        num_sanity_val_steps=0,
        **quiet,
    ).fit(module, data)
    return module


def test_the_average_is_that_of_tensorflow():
    record = Record()
    module = trained(MentorNet(small_network(classes=10), Mentor()), 3, record)
    averages = [w.double() for w in record.weights[0]]
    for step, weights in enumerate(record.weights[1:], 1):
        decay = min(0.9999, (1 + step) / (10 + step))
        averages = [decay * a + (1 - decay) * w for a, w in zip(averages, weights, strict=True)]
    for found, expected in zip(module.eval_network.parameters(), averages, strict=True):
        torch.testing.assert_close(found, expected.float())
    for found, expected in zip(module.eval_network.module.buffers(), module.network.buffers(), strict=True):
        assert torch.equal(found, expected)


class Selections(Mentor):
    """Keeps how many samples were selected in each step."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.kept: list[float] = []

    def forward(self, losses, progress):
        selected = super().forward(losses, progress)
        self.kept.append(float(selected.mean()))
        return selected


def test_the_burn_in_is_a_fraction_of_all_steps():
    mentor = Selections(percentile=0.5, burn_in=0.3)
    trained(MentorNet(small_network(classes=10), mentor), 4, Record())
    assert [kept == 1 for kept in mentor.kept] == [True] * 6 + [False] * 14


@pytest.mark.parametrize("second", [False, True])
def test_weight_decay_is_that_of_weights_and_none_with_a_second_reweighting(second):
    module = MentorMix(small_network(classes=10), Mentor(), weight_decay=0.1, second_reweight=second)
    (optimizer,), _ = module.configure_optimizers()
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["weight_decay"] == (0.1 if p.dim() > 1 and not second else 0.0)
    counted = sum(len(group["params"]) for group in optimizer.param_groups)
    assert counted == len(list(module.network.parameters()))


def test_a_second_mentor_selects_among_the_mixtures():
    """One step with both mentors past their burn-in; its loss is written out."""
    mentor = Selections(percentile=0.5, burn_in=0.0)
    module = MentorMix(small_network(classes=10), mentor, second_reweight=True, lr=0.1, momentum=0.0)
    seen = {}

    def update(loss):
        seen["loss"] = loss.detach()
        MentorMix.update_network(module, loss)

    module.update_network = update
    losses = []
    module.log_batch = lambda batch, logits, sample_losses, weights: (
        losses.append(sample_losses.detach()) or logits.mean()
    )
    data = Digits(size=8, batch_size=100, limit_train=100, limit_test=50)
    data.setup()
    module.prepare(data)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", limit_val_batches=0, enable_model_summary=False, **quiet)
    trainer.fit(module, data)
    mixed = losses[0]
    kept = (mixed <= mixed.quantile(0.5)).float()
    assert 0 < kept.mean() < 1
    torch.testing.assert_close(seen["loss"], (kept * mixed).mean())
    assert len(mentor.kept) == 1  # the second mentor has an average of its own
    assert len(module.second_mentor.kept) == 1
    assert module.second_mentor.threshold != mentor.threshold
