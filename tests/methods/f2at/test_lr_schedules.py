"""Schedules at known epochs, and against torch's one-cycle schedule."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from methods.f2at.lr_schedules import PiecewiseConstant, PiecewiseCosine, PiecewiseLinear


def test_piecewise_schedules_at_known_epochs():
    steps = PiecewiseConstant(epochs=[100, 105], factors=[0.1, 0.01], total_epochs=110)
    for n in (110, 220, 11):  # scaled to trainings of other lengths, exact at each of their epochs
        factors = [steps(epoch / n) for epoch in range(n)]
        assert factors == [1 if 110 * e < 100 * n else 0.1 if 110 * e < 105 * n else 0.01 for e in range(n)]
    linear = PiecewiseLinear(epochs=[0, 40, 80, 120], factors=[1.0, 1.0, 0.1, 0.01], total_epochs=120)
    assert [linear(e / 120) for e in (0, 40, 60, 80, 120)] == pytest.approx([1, 1, 0.55, 0.1, 0.01])
    cosine = PiecewiseCosine(epochs=[0, 10, 30], factors=[0.0, 1.0, 0.5], total_epochs=40)
    assert [cosine(e / 40) for e in (0, 5, 10, 20, 30, 40)] == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.5])


def test_three_epochs_of_a_cosine_are_torchs_one_cycle():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.21, momentum=0.9, nesterov=True)
    total = 2000
    reference = OneCycleLR(optimizer, max_lr=0.21, pct_start=0.25, total_steps=total)
    rate = PiecewiseCosine(epochs=[0, 12.5, 50], factors=[0.04, 1.0, 0.000004], total_epochs=50)
    momentum = PiecewiseCosine(epochs=[0, 12.5, 50], factors=[0.95, 0.85, 0.95], total_epochs=50)
    for step in range(total - 1):
        group = optimizer.param_groups[0]
        assert 0.21 * rate(step / total) == pytest.approx(group["lr"], abs=0.21 * 0.004)
        assert momentum(step / total) == pytest.approx(group["momentum"], abs=0.0004)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("schedule", [PiecewiseConstant, PiecewiseLinear, PiecewiseCosine])
@pytest.mark.parametrize("wrong", [{"epochs": [5, 1], "factors": [1, 1]}, {"epochs": [1], "factors": []}])
def test_epochs_must_rise_and_have_a_factor_each(schedule, wrong):
    with pytest.raises(ValueError, match="rising"):
        schedule(**wrong, total_epochs=10)
