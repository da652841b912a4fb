"""Settings of FaMUS's tables that differ from row to row and from column to column, as published."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from runner.config.address import Run, resolved
from runner.config.compose import compose_without_sweep
from runner.config.grids import expand_sweep

# CNWL by level: MixUp's alpha, weight of the unlabeled loss, drops of the learning rate; MentorMix's alpha, percentile
CNWL = {
    "0.2": ((1.0, 50, [200, 250]), (2, 0.7)),
    "0.4": ((1.5, 50, [200, 250]), (8, 0.5)),
    "0.6": ((1.5, 50, [100, 200]), (4, 0.3)),
    "0.8": ((2.0, 100, [100, 200]), (8, 0.1)),
}
WARMUP = 30


@functools.cache
def sweep(table: str) -> list[list[str]]:
    overrides = [f"experiment=famus/{table}", "seed=0"]
    return expand_sweep(compose_without_sweep(overrides), overrides)


def cell(table: str, *of: str) -> dict[str, Any]:
    """The config of the one run of seed 0 that has these overrides."""
    (run,) = (run for run in sweep(table) if set(of) <= set(run))
    return resolved(Run.compose(run).cfg)


@pytest.mark.parametrize("level", CNWL)
def test_table_7_trains_famus_by_its_script(level):
    cfg = cell("table7", "method=famus/famus_cnwl", f"dataset.level={level}")
    method, (alpha, unlabeled, milestones) = cfg["method"], CNWL[level][0]
    assert (method["alpha"], method["unlabeled_weight"]) == (alpha, unlabeled)
    assert method["scheduler"]["milestones"] == [WARMUP + epoch for epoch in milestones]
    assert (method["lr"], method["momentum"], method["nesterov"], method["weight_decay"]) == (0.02, 0.9, True, 5e-4)
    assert (method["warmup_epochs"], cfg["schedule"]["max_epochs"]) == (WARMUP, WARMUP + 300)
    assert cfg["dataset"]["batch_size"] == 128
    for name, (lr, decay) in {"weight_net_optimizer": (0.001, 5e-4), "gate_optimizer": (0.1, 0)}.items():
        optimizer = method[name]
        assert (optimizer["lr"], optimizer["momentum"], optimizer["nesterov"]) == (lr, 0.9, True)
        assert optimizer.get("weight_decay", 0) == decay


def test_famus_on_cnwl_has_its_scripts_settings_alone():
    cfg = resolved(Run.compose(["method=famus/famus_cnwl"]).cfg)
    expected = cell("table7", "method=famus/famus_cnwl", "dataset.level=0.4")
    for key in ("method", "dataset", "schedule"):
        assert cfg[key] == expected[key]


@pytest.mark.parametrize("level", CNWL)
def test_table_7_trains_mentormix_by_its_own_schedule(level):
    cfg = cell("table7", "method=famus/mentormix", f"dataset.level={level}")
    method = cfg["method"]
    assert (method["alpha"], method["mentor"]["percentile"]) == CNWL[level][1]
    assert (method["lr"], method["weight_decay"], method["second_reweight"]) == (0.1, 0.0002, False)
    assert (method["scheduler"]["step_size"], method["scheduler"]["gamma"]) == (30, 0.9)
    epochs, steps = cfg["schedule"]["max_epochs"], 50_000 // cfg["dataset"]["batch_size"]
    assert epochs * steps == pytest.approx(200_000, rel=0.01)
    assert int(method["mentor"]["burn_in"] * epochs) + 1 == 47


@pytest.mark.parametrize(("method", "warmup"), [("ce", 0), ("mixup", 0), ("dividemix", WARMUP)])
def test_table_7_trains_the_others_like_famus(method, warmup):
    cfg = cell("table7", f"method=famus/{method}", "dataset.level=0.6")
    settings = cfg["method"]
    assert (settings["lr"], settings["nesterov"]) == (0.02, True)
    assert settings["scheduler"]["milestones"] == [warmup + 100, warmup + 200]
    assert cfg["schedule"]["max_epochs"] == warmup + 300


# alpha, percentile, second re-weighting of MentorMix's script
MENTORMIX = {
    ("cifar10", "0.4"): (8, 0.6, False),
    ("cifar10", "0.6"): (8, 0.6, True),
    ("cifar100", "0.4"): (8, 0.5, False),
    ("cifar100", "0.6"): (4, 0.3, True),
}


@pytest.mark.parametrize("column", MENTORMIX)
def test_table_5_trains_mentormix_by_its_script(column):
    dataset, rate = column
    of = [f"dataset={dataset}", f"dataset.noise.rate={rate}"]
    method = cell("table5", "method=famus/mentormix", *of)["method"]
    assert (method["alpha"], method["mentor"]["percentile"], method["second_reweight"]) == MENTORMIX[column]
    assert cell("table5", "method=famus/mentornet", *of)["method"]["mentor"]["percentile"] == MENTORMIX[column][1]


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_settings_of_table_5_by_data_set(dataset):
    hundred = dataset == "cifar100"
    of = [f"dataset={dataset}", "dataset.noise.rate=0.6"]
    assert cell("table5", "method=famus/coteaching", *of)["method"]["decay_start"] == (100 if hundred else 80)
    for method in ("l2r", "mw_net"):
        assert cell("table5", f"method=famus/{method}", *of)["dataset"]["meta"] == (10 if hundred else 100)
    for method, own in (("dividemix", [150]), ("famus_pseudo", [200, 250])):
        cfg, warmup = cell("table5", f"method=famus/{method}", *of), 30 if hundred else 10
        after = warmup if method == "famus_pseudo" else 0  # DivideMix counts its warm-up among its 300 epochs
        assert cfg["method"]["warmup_epochs"] == warmup
        assert cfg["method"]["unlabeled_weight"] == (150 if hundred else 25)
        assert cfg["method"]["scheduler"]["milestones"] == [after + epoch for epoch in own]
        assert cfg["schedule"]["max_epochs"] == after + 300


@pytest.mark.parametrize(
    ("table", "keys"),
    [("table1", ["dataset", "method", "dataset.noise.rate"]), ("table4", ["alias"]), ("digits", ["method"])],
)
def test_every_cell_is_swept_once(table, keys):
    values = [tuple(o for o in run if o.partition("=")[0] in keys) for run in sweep(table)]
    per_cell = 2 if table == "digits" else 1
    assert {values.count(value) for value in values} == {per_cell}


def test_rows_of_table_4_are_told_apart_by_their_layers():
    for block in (4, 8, 12):
        assert cell("table4", f"alias=from_block_{block}")["method"]["gates"]["block"] == block
    for layers in (4, 8, 16):
        assert cell("table4", f"alias=random_layers_{layers}")["method"]["gates"]["layers"] == layers
    for name in ("mw_net", "famus"):  # the same folder as in the other tables
        (run,) = (run for run in sweep("table4") if f"alias={name}" in run)
        without = Run.compose([o for o in run if not o.startswith("alias=")])
        assert Run.compose(run).folder == without.folder
