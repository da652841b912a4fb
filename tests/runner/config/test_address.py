"""The id of a run: what changes it, and what does not."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra import initialize_config_dir

from runner.config.address import Run
from runner.config.compose import VERSION_BASE, compose, compose_run
from runner.config.grids import expand_sweep
from runner.config.place import CONF
from runner.errors import UserError

BASE = ["method=graphnorm", "dataset=atlas"]


def address(*overrides: str) -> str:
    return Run.compose([*BASE, *overrides]).id


@pytest.mark.parametrize(
    "override",
    [
        "loader.workers=2",
        "trainer=gpu",
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.profiler=simple",
        "+trainer.enable_progress_bar=false",
        "logger=csv",
        "logger.wandb.project=other",
        "paths.outputs=/elsewhere",
        "paths.data=/elsewhere",
        "threads=2",
        "compile=true",
        "checkpoint.keep=false",
        "rerun=true",
        "wait=false",
        "tags=[x]",
        "experiment=graphnorm/demo",
    ],
)
def test_where_it_runs_changes_no_id(override: str) -> None:
    extra = ["schedule.max_epochs=60"]  # what the demo sets
    assert address(override, *extra) == address(*extra)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "method.lr=0.02",
        "method=graphnorm/batch",
        "dataset.fold=1",
        "dataset.batch_size=64",
        "model.hidden=32",
        "model=gcn",
        "schedule.max_epochs=10",
        "trainer.precision=64-true",
        "+trainer.limit_train_batches=1",
        "stages=[fit]",
    ],
)
def test_what_decides_the_result_changes_the_id(override: str) -> None:
    assert address(override) != address()


def test_folder_names_what_was_chosen(tmp_path) -> None:
    run = Run.compose(["method=graphnorm/batch", "dataset=atlas", "model=gcn", f"paths.outputs={tmp_path}"])
    assert run.folder == tmp_path / "graphnorm" / "batch-atlas-gcn" / run.id


def test_a_need_is_part_of_the_id() -> None:
    need = "+needs.teacher=['method=graphnorm','dataset=atlas','{}']"
    plain, one, two = address(), address(need.format("seed=1")), address(need.format("seed=2"))
    assert len({plain, one, two}) == 3
    assert address(need.format("seed=1"), "threads=2") == one


def test_a_need_may_share_what_its_run_is_made_of() -> None:
    same = "same: [dataset, model, seed, schedule, method.lr]"
    need = f"+needs.teacher={{run: ['method=graphnorm','method.weight_decay=0.1'], {same}}}"
    overrides = [*BASE, need, "dataset=ptc", "dataset.fold=3", "model=gcn", "seed=5", "method.lr=0.5"]
    teacher = Run.compose([*overrides, "schedule.max_epochs=7"]).needs["teacher"]
    alone = ["method=graphnorm", "method.weight_decay=0.1", *overrides[len(BASE) + 1 :], "schedule.max_epochs=7"]
    assert teacher.id == Run.compose(alone).id
    assert (teacher.choices["dataset"], teacher.choices["model"]) == ("ptc", "gcn")


@pytest.mark.parametrize(
    ("need", "said"),
    [
        ("[]", "needs.teacher names no run; leave it out by ~needs.teacher"),
        ("{run: []}", "needs.teacher names no run"),
        ("{run: ['method=graphnorm'], same: [dataset, nosuch]}", "needs.teacher.same names nosuch, which is no key"),
    ],
)
def test_a_need_that_names_nothing_is_refused(need, said) -> None:
    with pytest.raises(UserError, match=said):
        _ = Run.compose([*BASE, f"+needs.teacher={need}"]).needs


@pytest.mark.parametrize("group", ["dataset", "model"])
def test_a_group_that_is_taken_away_is_named(group) -> None:
    with pytest.raises(UserError, match=f"{group} is missing"):
        Run.compose([*BASE, f"~{group}"])


def test_a_smoke_run_exports_nothing(tmp_path) -> None:
    run = Run.compose(["method=esparse", f"method.export={tmp_path}/pruned", "smoke=true"])
    assert run.cfg.method.export is None


def test_needed_runs_are_found_in_the_same_folders_of_config_files() -> None:
    conf = Path(__file__).parents[1] / "conf"
    needed = "needs.teacher=['method=toy/student','dataset=atlas']"
    run = Run.compose([f"hydra.searchpath=[{conf}]", "method=toy/student", "dataset=atlas", needed])
    assert run.needs["teacher"].choices["method"] == "toy/student"


def test_an_alias_names_the_run_and_changes_no_id(tmp_path) -> None:
    overrides = ["method=graphnorm/batch", "dataset=atlas", f"paths.outputs={tmp_path}"]
    run, plain = Run.compose([*overrides, "alias=reconstruction"]), Run.compose(overrides)
    assert (run.name, run.id) == ("reconstruction-atlas-gin", plain.id)


def test_values_set_on_a_copy_give_what_hydra_composes() -> None:
    overrides = [*BASE, "seed=3", "method.lr=0.5", "method.scheduler={a: 1e-3}", "dataset.readout=mean", "tags=[a,b]"]
    cfg, choices = compose_run(overrides)
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        hydra_cfg = hydra.compose("config", overrides)
    assert cfg == hydra_cfg
    assert (choices["dataset"], choices["model"]) == ("atlas", "gin")


def test_unknown_keys_are_refused_as_hydra_refuses_them() -> None:
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match="lrr"):
        compose([*BASE, "method.lrr=1"])


def test_expand_lets_the_command_line_win() -> None:
    overrides = ["experiment=graphnorm/table1", "dataset=mutag,ptc", "seed=1"]
    runs = expand_sweep(compose(["experiment=graphnorm/table1"]), overrides)
    assert len(runs) == 2 * 4 * 10
    assert all("seed=1" in run for run in runs)
    assert len({Run.compose(run).id for run in runs}) == len(runs)
