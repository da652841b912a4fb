"""Search of hyper-parameters: the space, the study on disk, pruning, and the whole command."""

from __future__ import annotations

import csv
import itertools
import json
import shlex

import pytest
import yaml

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.record import read_result
from runner.files import write_json
from runner.sweeps.search import study_folder
from runner.sweeps.search_settings import Settings, direction_of, long_names
from runner.sweeps.space import Dimension, first_point, split_space
from runner.sweeps.trials import Trials

pytest.importorskip("optuna")
DEFAULTS = {
    "params": None,
    "optimize": "val/acc",
    "direction": None,
    "trials": 12,
    "sampler": "tpe",
    "pruner": "median",
    "startup": 4,
    "warmup": 1,
    "epoch": "last",
    "parallel": None,
    "study": None,
    "seed": 0,
}
SPACE = ["method.lr=tag(log,interval(1e-4,1e-1))", "model.hidden=8,16"]


def settings(**changes) -> Settings:
    return Settings(**DEFAULTS | changes)


def make(tmp_path, tiny, space=SPACE, **changes) -> Trials:
    fixed = [o for o in tiny if not o.startswith("model.hidden")]
    return Trials(settings(**changes), fixed, split_space(space)[1], tmp_path / "study.journal")


def finish(trials: Trials, task, **metrics: float) -> str:
    """Record a result in the run's folder, as a worker does, and tell it."""
    task.run.folder.mkdir(parents=True, exist_ok=True)
    costs = {"time/fit": metrics.pop("seconds", 1.0)}
    write_json(
        task.run.folder / "result.json", {"metrics": metrics, "costs": costs, "seconds": {"fit": 1.0}, "code": {}}
    )
    return trials.finish(task)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=interval(0,1)", Dimension("a.b", low=0.0, high=1.0)),
        ("a.b=tag(log,interval(0.1,1))", Dimension("a.b", low=0.1, high=1.0, log=True)),
        ("a.b=int(interval(2,8))", Dimension("a.b", low=2, high=8, whole=True)),
        ("a.b=range(2,9,3)", Dimension("a.b", low=2, high=8, whole=True, step=3)),
        ("model=gin,gcn", Dimension("model", values=("gin", "gcn"))),
        ("a.b=choice(x,1)", Dimension("a.b", values=("x", "1"))),
        ("+a.b=0.1,0.5", Dimension("+a.b", values=("0.1", "0.5"))),
    ],
)
def test_the_space_is_hydras_grammar(override, expected) -> None:
    fixed, space = split_space(["seed=1", override])
    assert fixed == ["seed=1"]
    assert space == [expected]


def test_other_settings_of_the_sampler_are_another_study(tiny) -> None:
    fixed, space = split_space([o for o in tiny if not o.startswith("model.hidden")] + SPACE)
    first = Run.compose(first_point(fixed, space))

    def folder(**changes):
        return study_folder(first, settings(**changes), fixed, space)[0]

    assert folder(trials=50, parallel=2) == folder()
    others = [{"sampler": "random"}, {"pruner": "none"}, {"startup": 1}, {"warmup": 3}, {"seed": 1}]
    assert len({folder(), *(folder(**changes) for changes in others)}) == 1 + len(others)
    assert folder(study="mine").name == "mine"


@pytest.mark.parametrize(
    "override",
    [
        *("a.b=interval(1,0)", "a.b=tag(log,interval(0,1))", "seed=1,2", "seed=range(3)"),
        *("a.b=interval(0.1,inf)", "a.b=interval(0.1,nan)", "a.b=interval(-inf,1)"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(override) -> None:
    with pytest.raises(UserError):
        split_space([override])


def test_directions_follow_the_names_of_metrics() -> None:
    less = ("val/loss", "test/ppl", "time/fit", "memory/process", "test/rmse", "test/chamfer_l1")
    assert [direction_of(name) for name in less] == ["minimize"] * len(less)
    assert {direction_of(name) for name in ("val/acc", "test/auc", "val/iou")} == {"maximize"}


def test_short_names_are_those_of_the_sweeper() -> None:
    assert long_names(["trials=5", "optimize=val/acc,time/fit", "seed=1"]) == [
        "hydra.sweeper.trials=5",
        "hydra.sweeper.optimize=[val/acc,time/fit]",
        "seed=1",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimize": None},
        {"trials": 0},
        {"sampler": "annealing"},
        {"direction": "up"},
        {"optimize": ["val/acc", "time/fit"], "sampler": "cmaes"},
        {"parallel": 0},
        {"trials": True},
        {"seed": "abc"},
        {"study": 5},
        {"study": "../../x"},
    ],
)
def test_settings_out_of_range_are_refused(changes) -> None:
    with pytest.raises(UserError):
        settings(**changes)


def test_a_search_finds_the_maximum_of_a_known_function(tmp_path, tiny) -> None:
    """The value depends on the learning rate alone, with its maximum at 0.01."""
    from math import log10

    trials = make(tmp_path, tiny, trials=30)
    for task in trials:
        finish(trials, task, **{"val/acc": 1 - abs(log10(task.run.cfg.method.lr) + 2)})
    assert len(trials.study.trials) == 30
    assert 0.004 < trials.study.best_params["method.lr"] < 0.025
    assert trials.study.best_value > 0.6


def test_a_study_goes_on_where_it_was_stopped(tmp_path, tiny) -> None:
    first = make(tmp_path, tiny, trials=4)
    for task in itertools.islice(first, 2):
        finish(first, task, **{"val/acc": 0.5})
    left = next(first)  # asked for, and then the search is killed
    second = make(tmp_path, tiny, trials=4)
    again = next(second)
    assert again.run.folder == left.run.folder
    finish(second, again, **{"val/acc": 0.7})
    finish(second, next(second), **{"val/acc": 0.6})
    with pytest.raises(StopIteration):
        next(second)
    assert [t.state.name for t in second.study.trials] == ["COMPLETE"] * 4
    assert second.study.best_value == 0.7


def test_finished_runs_are_no_tasks(tmp_path, tiny) -> None:
    grid = ["method.lr=0.1,0.01", "model.hidden=8,16"]
    first = make(tmp_path / "a", tiny, grid, sampler="grid") if (tmp_path / "a").mkdir() is None else None
    for task in first:
        finish(first, task, **{"val/acc": 0.5})
    assert len(first.study.trials) == 4
    (tmp_path / "b").mkdir()
    second = make(tmp_path / "b", tiny, grid, sampler="grid")
    assert list(second) == []
    assert second.count("COMPLETE") == 4


def test_a_grid_has_every_point_once(tmp_path, tiny) -> None:
    trials = make(tmp_path, tiny, ["method.lr=0.1,0.01,0.001", "model.hidden=range(8,17,8)"], sampler="grid", trials=99)
    seen = []
    for task in trials:
        seen.append((task.run.cfg.method.lr, task.run.cfg.model.hidden))
        finish(trials, task, **{"val/acc": 0.5})
    assert sorted(seen) == sorted(itertools.product([0.1, 0.01, 0.001], [8, 16]))


def test_a_grid_runs_the_points_that_a_study_lacks(tmp_path, tiny) -> None:
    grid = ["method.lr=0.1,0.01,0.001", "model.hidden=8,16"]
    first = make(tmp_path, tiny, grid, sampler="random", trials=2)
    for task in first:
        finish(first, task, **{"val/acc": 0.5})
    second = make(tmp_path, tiny, grid, sampler="grid", trials=99)
    for task in second:
        finish(second, task, **{"val/acc": 0.5})
    assert {tuple(t.params.values()) for t in second.study.trials} == set(
        itertools.product(["0.1", "0.01", "0.001"], ["8", "16"])
    )


def test_finished_trials_are_run_again_if_so_asked(tmp_path, tiny) -> None:
    grid = ["method.lr=0.1,0.01"]
    first = make(tmp_path, tiny, grid, sampler="grid")
    for task in first:
        finish(first, task, **{"val/acc": 0.5})
    (tmp_path / "again").mkdir()
    assert len(list(itertools.islice(make(tmp_path / "again", [*tiny, "rerun=true"], grid, sampler="grid"), 2))) == 2


@pytest.fixture
def study(tiny, monkeypatch):
    """study(*overrides) -> the searched keys of a search whose trials are not run."""
    from runner.sweeps import search

    spaces = []
    monkeypatch.setattr(search, "run_trials", lambda cfg, trials, folder: spaces.append((trials.space, folder)))
    fixed = [o for o in tiny if not o.startswith("model.hidden")]

    def study(*overrides: str):
        search.search(["-m", *fixed, "hydra/sweeper=optuna", "optimize=val/acc", *overrides])
        return spaces[-1]

    return study


@pytest.mark.parametrize(
    "other",
    [
        ["method.lr=0.1,0.01,1"],
        ["method.lr=0.1,0.01", "schedule.max_epochs=3"],
        ["method.lr=0.1,0.01", "sampler=grid"],
        ["method.lr=0.1,0.01", "optimize=val/loss"],
    ],
)
def test_a_named_study_is_of_one_space_and_one_setting(study, other) -> None:
    study("study=a", "method.lr=0.1,0.01", "trials=3")
    study("study=a", "method.lr=0.1,0.01", "trials=5", "threads=2")
    with pytest.raises(UserError, match="is a study of another space"):
        study("study=a", *other)


def test_lists_among_the_parameters_are_searched(study) -> None:
    space, _ = study("hydra.sweeper.params={method.lr:[0.1,0.2],model.hidden:'range(8,17,8)'}")
    assert [(d.key, d.values or (d.low, d.high)) for d in space] == [
        ("method.lr", ("0.1", "0.2")),
        ("model.hidden", (8, 16)),
    ]


def test_several_metrics_give_the_pareto_front(tmp_path, tiny) -> None:
    values = [(0.5, 1.0), (0.6, 2.0), (0.4, 3.0), (0.9, 9.0), (0.55, 2.5), (0.95, 20.0)]
    trials = make(tmp_path, tiny, optimize=["val/acc", "time/fit"], sampler="random", trials=len(values))
    for (acc, seconds), task in zip(values, trials, strict=False):
        assert not any("trial_pruning" in o for o in task.overrides)
        finish(trials, task, **{"val/acc": acc, "seconds": seconds})

    def beaten(point: tuple[float, float]) -> bool:
        return any(a >= point[0] and s <= point[1] and (a, s) != point for a, s in values)

    front = {tuple(t.values) for t in trials.study.best_trials}
    assert front == {point for point in values if not beaten(point)}


def test_failed_pruned_and_infinite_trials_are_told(tmp_path, tiny) -> None:
    trials = make(tmp_path, tiny, sampler="random", trials=4)
    tasks = iter(trials)
    finish(trials, next(tasks), **{"val/acc": 0.5})
    finish(trials, next(tasks), **{"val/acc": float("inf")})
    for state in ({"error": "it diverged"}, {"error": "pruned after epoch 2: worse", "pruned": True}):
        task = next(tasks)
        task.run.folder.mkdir(parents=True)
        write_json(task.run.folder / "state.json", state)
        trials.finish(task)
    assert [t.state.name for t in trials.study.trials] == ["COMPLETE", "FAIL", "FAIL", "PRUNED"]


def test_a_metric_that_no_run_records_ends_the_search(tmp_path, tiny) -> None:
    trials = make(tmp_path, tiny, optimize="val/nonsense")
    task = next(trials)
    with pytest.raises(UserError, match="the run recorded test/acc, time/fit"):
        finish(trials, task, **{"test/acc": 0.5})


def test_a_wandb_sweep_has_the_same_space(capsys) -> None:
    from scripts.wandb_sweep import main

    main(["method=graphnorm", "dataset=atlas", "optimize=val/loss", "trials=7", *SPACE, "model.layers=range(2,5)"])
    sweep = yaml.safe_load(capsys.readouterr().out)
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert sweep["run_cap"] == 7
    assert sweep["parameters"] == {
        "method.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "model.hidden": {"values": [8, 16]},
        "model.layers": {"distribution": "int_uniform", "min": 2, "max": 4},
    }
    assert sweep["command"][-3:] == ["method=graphnorm", "dataset=atlas", "${args_no_hyphens}"]


@pytest.mark.slow
def test_the_whole_command(call, tiny, tmp_path) -> None:
    fixed = [o for o in tiny if not o.startswith(("model.hidden", "schedule"))] + ["schedule.max_epochs=3"]
    command = ["-m", *fixed, "hydra/sweeper=optuna", "optimize=val/acc", "startup=2", *SPACE, "trials=6"]
    code, printed = call(*command)
    assert code == 0, printed
    assert "[6/6]" in printed
    assert "Traceback" not in printed
    (folder,) = tmp_path.glob("searches/graphnorm/*")
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert len(rows) == 6
    assert {"history.png", "slices.png"} <= {path.name for path in folder.glob("figures/*.png")}
    (best,) = json.loads((folder / "search.json").read_text())["best"]
    code, printed = call(*shlex.split(best["command"])[3:])
    assert code == 0
    assert "finished; rerun=true" in printed  # the best trial is a run like any other
    result = read_result(next(tmp_path.glob(f"graphnorm/*/{rows[best['number']]['run']}")))
    assert result is not None
    code, printed = call(*command)
    assert "6 trials, 6 done" in printed
    assert len(list(csv.DictReader((folder / "trials.csv").open()))) == 6
