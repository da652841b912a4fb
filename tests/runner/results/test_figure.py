import csv
import os
import subprocess
import sys

import pytest

from runner import figure
from runner.config.address import Run
from runner.errors import UserError
from runner.execution.figures import save_figures
from runner.execution.plot_style import pyplot
from runner.execution.record import read_metrics
from runner.files import write_json
from runner.results.build_figure import curve
from runner.results.draw_figure import draw_figure
from runner.results.experiment_runs import runs_of
from runner.results.figure_files import figure_path
from runner.results.figure_model import FigureSpec, Line
from runner.sweeps.run_status import run_status
from tests.runner.results.texts import overlapping_texts

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
    """Return the folder of two folds of GraphNorm, trained for two epochs on the embedded graphs."""
    folder = tmp_path_factory.mktemp("outputs")
    done = run_module("runner", "-m", *SWEEP, "method=graphnorm", f"paths.outputs={folder}", "logger=csv")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_lines_are_means_over_the_runs(outputs, capsys):
    path = figure.make_figure([*SWEEP, "method=graphnorm,graphnorm/batch", f"paths.outputs={outputs}", "logger=csv"])
    printed = capsys.readouterr().out
    assert "GraphNorm  2 of 2 runs\n" in printed
    assert "BatchNorm  0 of 2 runs  2 missing" in printed
    assert path.parent == outputs / "figures" / "graphnorm" / "figure4"

    from matplotlib.image import imread

    assert imread(path).shape[1] == pytest.approx(3.3 * 300, abs=2)

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
        ([], "name the figure"),
        (["experiment=graphnorm/demo"], "has no figure; these have one: famus/variance, graphnorm/figure4"),
        (["experiment=nonsense"], "nonsense"),
        (["experiment=graphnorm/figure5", "figure.panels=colour"], "'colour'"),
        (["experiment=graphnorm/figure5", "+figure.colour=red"], "unknown key figure.colour;"),
        (["experiment=graphnorm/figure5", "figure.lines=5"], "figure.lines: must be a name or a list, got 5"),
        (["experiment=graphnorm/figure5", "figure.labels=5"], "figure.labels: must be a mapping"),
        (["experiment=graphnorm/figure5", "figure.metric=5"], "figure.metric: must be a valid string, got 5"),
        (["experiment=graphnorm/figure5", "figure=5"], "figure: must be a valid dictionary"),
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
    with pytest.raises(UserError, match=r"figure\.metric is missing"):
        FigureSpec.read("e", {"panels": "dataset", "lines": "method"})
    with pytest.raises(UserError, match=r"figure\.reported\.0: x and y must have the same number"):
        FigureSpec.read("e", node | {"reported": [{"panel": "p", "line": "a", "x": [1], "y": [1, 2]}]})


def test_labels_leave_out_what_all_lines_share():
    spec = FigureSpec(panels="dataset", lines=("model", "method"), metric="m", labels={"gin": "GIN", "a": "A"})
    lines = [Line("p", ("gin", "a")), Line("p", ("gin", "b"))]
    assert [spec.line_label(line, lines) for line in lines] == ["A", "b"]
    lines.append(Line("p", ("gcn", "a")))
    assert [spec.line_label(line, lines) for line in lines] == ["GIN + A", "GIN + b", "gcn + A"]


def test_reported_points_find_their_line():
    points = (
        {"panel": "p", "line": ("gin", "a"), "x": [1], "y": [2]},
        {"panel": "q", "line": ("a",), "x": [1], "y": [2]},
    )
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
        runs = [run for name in ("table1", "figure4") for run in runs_of([f"experiment=graphnorm/{name}", *choice])]
        assert len(runs) == 2
        return [run.id for run in runs]

    assert len(set(ids("mutag"))) == 1
    assert len(set(ids("proteins"))) == 2


def test_a_run_whose_metrics_cannot_be_read_is_left_out(tmp_path, capsys):
    for fold, value in ((0, "0.5"), (1, "much")):
        run = Run.compose([*SWEEP[:2], f"dataset.fold={fold}", SWEEP[3], f"paths.outputs={tmp_path}"])
        run.folder.mkdir(parents=True)
        write_json(run.folder / "result.json", {"metrics": {}, "seconds": {}, "code": {}})
        rows = [f"{epoch},{epoch + 1},{value}" for epoch in range(3)]
        (run.folder / "metrics.csv").write_text("\n".join(["epoch,step,train/acc", *rows, ""]))
    path = figure.make_figure([*SWEEP, "method=graphnorm", f"paths.outputs={tmp_path}", "logger=csv"])
    assert "GraphNorm  1 of 2 runs  1 unreadable" in capsys.readouterr().out
    with open(path.with_suffix(".csv"), newline="") as file:
        assert [row["train/acc mean"] for row in csv.DictReader(file)] == ["0.5"] * 3


def test_a_metric_against_another_is_a_point_for_each_line(tmp_path, capsys):
    for fold, accuracy in ((0, 0.5), (1, 0.7)):
        run = Run.compose([*SWEEP[:2], f"dataset.fold={fold}", SWEEP[3], f"paths.outputs={tmp_path}"])
        run.folder.mkdir(parents=True)
        metrics = {"test/acc": accuracy, "test/loss": 2 * accuracy}
        write_json(run.folder / "result.json", {"metrics": metrics, "seconds": {}, "code": {}})
    points = ["figure.metric=test/acc", "figure.x=test/loss", f"paths.outputs={tmp_path}", "logger=csv"]
    path = figure.make_figure([*SWEEP, "method=graphnorm", *points])
    assert "GraphNorm  2 of 2 runs" in capsys.readouterr().out
    with open(path.with_suffix(".csv"), newline="") as file:
        (row,) = csv.DictReader(file)
    assert [float(row[f"test/{name}"]) for name in ("loss", "acc mean", "acc std")] == pytest.approx([1.2, 0.6, 0.1])
    with pytest.raises(UserError, match="no test/acc against test/nothing; it recorded epoch, test/acc"):
        figure.make_figure([*SWEEP, "method=graphnorm", *points, "figure.x=test/nothing"])


def test_points_of_one_colour_have_different_markers():
    names = [str(i) for i in range(11)]
    spec = FigureSpec(panels="dataset", lines=("method",), metric="test/acc", x="test/utility")
    lines = [Line("a", (name,), curves=[{0: (float(name), 0.5)}, {0: (float(name), 0.7)}]) for name in names]
    drawn = draw_figure(spec, lines)
    points = [line for line in drawn.axes[0].lines if line.get_marker() in ("o", "s", "^", "D")]
    assert [line.get_ydata()[0] for line in points] == pytest.approx([0.6] * 11)
    assert len({(line.get_color(), line.get_marker()) for line in points}) == 11


def lines_of(panels, names, runs=2, epochs=40):
    """Return lines with curves between 0 and 1."""
    curves = [{e: (100 * e, 1 - 0.9 ** (e + r)) for e in range(epochs)} for r in range(runs)]
    return [Line(panel, (name,), curves=curves) for panel in panels for name in names]


@pytest.mark.parametrize("panels", [["a"], ["a", "b", "c"]])
def test_texts_of_a_figure_do_not_overlap(panels):
    names = [f"method with the number {i}" for i in range(5)]
    title = "Training accuracy of several methods against the number of iterations, on several collections"
    spec = FigureSpec(panels="dataset", lines=("method",), metric="train/acc", title=title)
    drawn = draw_figure(spec, lines_of(panels, names))
    assert not overlapping_texts(drawn)
    assert drawn.get_size_inches()[0] == pytest.approx(3.3)


def test_more_lines_than_colours_are_all_drawn():
    names = [str(i) for i in range(11)]
    spec = FigureSpec(panels="dataset", lines=("method",), metric="train/acc")
    assert len(draw_figure(spec, lines_of(["a"], names)).axes[0].lines) == 11


def test_figures_of_a_run_have_the_style_and_survive_a_damaged_file(tmp_path):
    rows = "\n".join(f"{e},{e},{0.1 * e},{0.1 * e},{0.2 * e}" for e in range(5))
    (tmp_path / "metrics.csv").write_text(f"epoch,step,train/acc,val/acc,train/norm\n{rows}\n")

    class Module:
        def figures(self):
            import matplotlib.pyplot as plt

            return {"own": plt.subplots()[0]}

    from matplotlib.image import imread

    paths = save_figures(Module(), tmp_path)
    assert [path.name for path in paths] == ["own.png", "curve_acc.png"]
    assert all(imread(path).shape[1] == pytest.approx(3.3 * 300, abs=2) for path in paths)
    (tmp_path / "metrics.csv").write_text("epoch,step,val/acc\n0,1,much\n")
    assert [path.name for path in save_figures(Module(), tmp_path)] == ["own.png"]


def test_overlapping_texts_are_found():
    with pyplot() as plt:
        drawn, ax = plt.subplots()
        ax.text(0.5, 0.5, "one")
        assert not overlapping_texts(drawn)
        ax.text(0.51, 0.51, "two")
        drawn.text(0.9, 0.9, "a text that is too long")
        assert overlapping_texts(drawn) == [("one", "two"), ("a text that is too long", "edge")]
        plt.close(drawn)
