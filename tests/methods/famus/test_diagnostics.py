"""What an epoch's samples say of noise, against scikit-learn; figures of what there is."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.optim import SGD

from methods.famus.diagnostics import Diagnostics
from methods.famus.lr_schedules import warmup_multistep


def epoch(ties: bool = False) -> tuple[Diagnostics, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Seen in two batches; the last of 41 samples is not seen."""
    torch.manual_seed(0)
    noisy = torch.rand(41) < 0.4
    losses, weights = torch.rand(41) + noisy, torch.rand(41) * (~noisy + 0.5)
    if ties:
        losses, weights = losses.round(), (2 * weights).round()
    diagnostics = Diagnostics()
    diagnostics.start_epoch(noisy)
    for index in torch.randperm(40).split(25):
        diagnostics.observe(index, losses[index], weights[index])
    return diagnostics, noisy[:40], losses[:40], weights[:40]


@pytest.mark.parametrize("ties", [False, True])
def test_separation_against_scikit_learn(ties):
    diagnostics, noisy, losses, weights = epoch(ties)
    found = {name: value.item() for name, value in diagnostics.separation_metrics().items()}
    assert found == pytest.approx(
        {
            "loss_auc": roc_auc_score(noisy, losses),
            "weight_auc": roc_auc_score(noisy, -weights),
            "weight_clean": weights[~noisy].mean().item(),
            "weight_noisy": weights[noisy].mean().item(),
        }
    )


def test_without_noise_there_is_nothing_to_tell_apart():
    diagnostics = Diagnostics()
    diagnostics.start_epoch(torch.zeros(3, dtype=torch.bool))
    diagnostics.observe(torch.arange(3), torch.rand(3), torch.ones(3))
    assert set(diagnostics.separation_metrics()) == {"weight_clean"}
    assert diagnostics.figures() == {}


def test_open_layers_are_counted_over_a_resumption():
    diagnostics, *_ = epoch()
    one, zero = torch.ones(()), torch.zeros(())
    assert diagnostics.observe_gates(["a", "b"], {"a": one, "b": zero}) == 1
    diagnostics.end_epoch({"train/open_gates": 1.0, "train/weight_clean": 1.2, "train/weight_noisy": 0.3})
    resumed = Diagnostics()
    resumed.load_state_dict(diagnostics.state_dict())
    assert resumed.observe_gates(["a", "b"], {"b": one}) == 1  # a rule names open layers alone
    assert resumed.observe_gates(["a", "b"], {}) == 0
    figures = resumed.figures()
    assert set(figures) == {"open_gates", "open_layers", "weight_means"}
    heights = [bar.get_height() for bar in figures["open_layers"].axes[0].patches]
    assert heights == pytest.approx([1 / 3, 1 / 3])
    assert set(diagnostics.figures()) == {"open_gates", "open_layers", "weight_means", "weights"}
    plt.close("all")


def test_rates_warm_up_and_fall():
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = warmup_multistep(optimizer, warmup_epochs=5, milestones=[8, 10], factors=[0.01, 0.0001])
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 0.1, 0.001, 0.001, 1e-5, 1e-5])
    with pytest.raises(ValueError, match="2 milestones and 1 factors"):
        warmup_multistep(optimizer, 5, [1, 2], [0.1])
