"""Settings of FaMUS's tables that differ from row to row and from column to column, as published."""

from __future__ import annotations

import pytest

from runner.config.address import Run, resolved

# CNWL by level: MixUp's alpha, weight of the unlabelled loss, drops of the learning rate; MentorMix's alpha, percentile
CNWL = {
    0.2: ((1.0, 50, [200, 250]), (2, 0.7)),
    0.4: ((1.5, 50, [200, 250]), (8, 0.5)),
    0.6: ((1.5, 50, [100, 200]), (4, 0.3)),
    0.8: ((2.0, 100, [100, 200]), (8, 0.1)),
}


def composed(*overrides: str) -> dict:
    return resolved(Run.compose(list(overrides)).cfg)


@pytest.mark.parametrize("level", CNWL)
def test_table_7_trains_famus_by_its_script(level):
    cfg = composed("experiment=famus/table7", f"dataset.level={level}")
    method, (alpha, unlabelled, milestones) = cfg["method"], CNWL[level][0]
    assert (method["alpha"], method["unlabelled"], method["scheduler"]["milestones"]) == (alpha, unlabelled, milestones)
    assert (method["lr"], method["momentum"], method["nesterov"], method["weight_decay"]) == (0.02, 0.9, True, 5e-4)
    assert (method["warmup"], cfg["schedule"]["max_epochs"], cfg["dataset"]["batch_size"]) == (30, 300, 128)
    for name, (lr, decay) in {"meta_optimizer": (0.001, 5e-4), "gate_optimizer": (0.1, 0)}.items():
        found = method[name]
        assert (found["lr"], found["momentum"], found["nesterov"]) == (lr, 0.9, True)
        assert found.get("weight_decay", 0) == decay


@pytest.mark.parametrize("level", CNWL)
def test_table_7_trains_mentormix_by_its_own_schedule(level):
    cfg = composed("experiment=famus/table7", "method=famus/mentormix", f"dataset.level={level}")
    method = cfg["method"]
    assert (method["alpha"], method["mentor"]["percentile"]) == CNWL[level][1]
    assert (method["lr"], method["nesterov"], method["mentor"]["burn_in"]) == (0.1, False, 10)
    assert (method["scheduler"]["step_size"], method["scheduler"]["gamma"]) == (30, 0.9)
    assert cfg["schedule"]["max_epochs"] * (50_000 // cfg["dataset"]["batch_size"]) == pytest.approx(200_000, rel=0.01)


@pytest.mark.parametrize("method", ["ce", "mixup", "dividemix"])
def test_table_7_trains_the_others_like_famus(method):
    cfg = composed("experiment=famus/table7", f"method=famus/{method}", "dataset.level=0.6")
    found = cfg["method"]
    assert (found["lr"], found["nesterov"], found["scheduler"]["milestones"]) == (0.02, True, [100, 200])
    assert cfg["schedule"]["max_epochs"] == 300


@pytest.mark.parametrize(("rate", "percentile", "alpha"), [(0.4, 0.5, 8), (0.6, 0.3, 4)])
def test_table_5_sets_mentors_by_the_noise_rate(rate, percentile, alpha):
    for name in ("mentornet", "mentormix"):
        method = composed("experiment=famus/table5", f"method=famus/{name}", f"dataset.noise.rate={rate}")["method"]
        assert method["mentor"]["percentile"] == percentile
        assert method.get("alpha", alpha) == alpha
