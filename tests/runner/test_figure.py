import csv
import os
import subprocess
import sys

import pytest

from runner import figure
from runner.config.address import Run
from runner.errors import UserError
from runner.execution.record import read_metrics
from runner.files import write_json
from runner.results.build_figure import curve
from runner.results.figure_model import FigureSpec, Line
from runner.results.plotting import figure_path
from runner.sweeps.run_status import run_status

SWEEP = ["experiment=graphnorm/figure4", "dataset=atlas", "dataset.fold=0,1", "schedule.max_epochs=2"]


def run_module(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"WANDB_MODE": "offline", "MPLBACKEND": "Agg"},
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two folds of GraphNorm, trained for two epochs on the embedded graphs."""
    folder = tmp_path_factory.mktemp("outputs")
    done = run_module("runner", "-m", *SWEEP, "method=graphnorm", f"paths.outputs={folder}", "logger=csv")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_lines_are_means_over_the_runs(outputs, capsys):
    path = figure.draw_figure([*SWEEP, "method=graphnorm,graphnorm/batch", f"paths.outputs={outputs}", "logger=csv"])
    printed = capsys.readouterr().out
    assert "GraphNorm  2 of 2 runs\n" in printed
    assert "BatchNorm  0 of 2 runs  2 missing" in printed
    assert path.parent == outputs / "figures" / "graphnorm" / "figure4"

    from matplotlib.image import imread

    assert imread(path).shape[1] == pytest.approx(3.4 * 300, abs=2)

    folds = [
        read_metrics(Run.compose([*SWEEP[:2], f"dataset.fold={fold}", SWEEP[3], f"paths.outputs={outputs}"]).folder)
        for fold in (0, 1)
    ]
    with open(path.with_suffix(".csv"), newline="") as file:
        drawn = list(csv.DictReader(file))
    assert [(row["dataset"], row["model"], row["method"], row["runs"]) for row in drawn] == [
        ("atlas", "gin", "graphnorm", "2")
    ] * 2
    for row, a, b in zip(drawn, *folds, strict=True):
        assert float(row["step"]) == a["step"] == b["step"]
        assert float(row["train/acc mean"]) == pytest.approx((a["train/acc"] + b["train/acc"]) / 2)
        assert float(row["train/acc std"]) == pytest.approx(abs(a["train/acc"] - b["train/acc"]) / 2)


@pytest.mark.slow
def test_the_command_logs_to_wandb_and_names_a_wrong_metric(outputs):
    arguments = [*SWEEP, "method=graphnorm", f"paths.outputs={outputs}"]
    done = run_module("runner.figure", *arguments, "logger=wandb")
    assert done.returncode == 0, done.stderr
    folder = outputs / "figures" / "graphnorm" / "figure4"
    (tracked,) = (folder / "wandb").glob("offline-run-*")
    assert len(list(tracked.rglob("*.png"))) == 1
    wrong = run_module("runner.figure", *arguments, "logger=csv", "figure.metric=train/accuracy")
    assert wrong.returncode == 2
    assert "no train/accuracy against step" in wrong.stderr
    assert "train/acc," in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Which figure?"),
        (["experiment=graphnorm/demo"], "has no figure; these have one: famus/variance, graphnorm/figure4"),
        (["experiment=nonsense"], "nonsense"),
        (["experiment=graphnorm/figure5", "figure.panels=colour"], "'colour'"),
        (["experiment=graphnorm/figure5", "+figure.colour=red"], "unknown keys colour"),
        (["experiment=graphnorm/figure5", "dataset=proteins"], "python -m runner -m experiment=graphnorm/figure5"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["figure", *arguments, f"paths.outputs={tmp_path}"])
    with pytest.raises(SystemExit) as end:
        figure.main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_average_keeps_the_epochs_that_all_runs_have():
    line = Line("p", ("a",), curves=[{0: (10, 1.0), 1: (20, 3.0), 2: (30, 9.0)}, {0: (12, 2.0), 1: (22, 7.0)}])
    assert line.average() == [(11, 1.5, 0.5), (21, 5, 2)]
    assert Line("p", ("a",)).average() == []


def test_curve_takes_the_rows_that_have_both():
    rows = [{"epoch": 0.0, "step": 8.0}, {"epoch": 1.0, "step": 16.0, "val/acc": 0.5}]
    assert curve(rows, "step", "val/acc") == {1: (16, 0.5)}
    assert curve(rows, "epoch", "val/acc") == {1: (2, 0.5)}


def test_spec_checks_the_node():
    node = {"panels": "dataset", "lines": "method", "metric": "val/acc"}
    spec = FigureSpec.read("e", node)
    assert (spec.lines, spec.x) == (("method",), "step")
    with pytest.raises(UserError, match="lacks metric"):
        FigureSpec.read("e", {"panels": "dataset", "lines": "method"})
    with pytest.raises(UserError, match="reported entry"):
        FigureSpec.read("e", node | {"reported": [{"panel": "p", "line": "a", "x": [1], "y": [1, 2]}]})


def test_labels_leave_out_what_all_lines_share():
    spec = FigureSpec(panels="dataset", lines=("model", "method"), metric="m", labels={"gin": "GIN", "a": "A"})
    lines = [Line("p", ("gin", "a")), Line("p", ("gin", "b"))]
    assert [spec.line_label(line, lines) for line in lines] == ["A", "b"]
    lines.append(Line("p", ("gcn", "a")))
    assert [spec.line_label(line, lines) for line in lines] == ["GIN + A", "GIN + b", "gcn + A"]


def test_reported_points_find_their_line():
    points = ({"panel": "p", "line": ["gin", "a"], "x": [1], "y": [2]}, {"panel": "q", "line": "a", "x": [1], "y": [2]})
    spec = FigureSpec(panels="dataset", lines=("model", "method"), metric="m", reported=points)
    assert spec.reported_for(Line("p", ("gin", "a"))) == [points[0]]
    assert spec.reported_for(Line("q", ("a",))) == [points[1]]
    assert spec.reported_for(Line("p", ("gcn", "a"))) == []


def test_a_part_of_a_figure_is_a_file_of_its_own(tmp_path):
    whole = ["experiment=e/f", f"paths.outputs={tmp_path}", "logger=csv", "figure.metric=train/acc"]
    assert figure_path(tmp_path, "e/f", "train/acc", whole) == tmp_path / "figures" / "e" / "f" / "train_acc.png"
    part = figure_path(tmp_path, "e/f", "train/acc", [*whole, "method=a,a/b"])
    assert part.name == "train_acc-method=a,a_b.png"


def test_states_of_runs_that_are_not_finished(tmp_path):
    run = Run.compose([*SWEEP[:2], f"paths.outputs={tmp_path}"])
    assert run_status(run).state == "missing"
    run.folder.mkdir(parents=True)
    write_json(run.folder / "state.json", {"state": "failed"})
    assert run_status(run).state == "failed"
    write_json(run.folder / "state.json", {"state": "running"})
    assert run_status(run).state == "interrupted"


def test_figure4_shares_the_runs_of_table1_where_the_settings_are_equal():
    def ids(dataset):
        choice = [f"dataset={dataset}", "method=graphnorm/batch", "dataset.fold=3"]
        return [Run.compose([f"experiment=graphnorm/{name}", *choice]).id for name in ("table1", "figure4")]

    assert len(set(ids("mutag"))) == 1
    assert len(set(ids("proteins"))) == 2
