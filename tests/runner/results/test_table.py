"""Reductions compared with direct computation, and tables of real and of written results."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy.stats import ttest_ind

from runner.config.address import Run
from runner.errors import UserError
from runner.files import write_json
from runner.results.build_table import build_table
from runner.results.experiment_runs import runs_of
from runner.results.reductions import REDUCTIONS, Measurements
from runner.results.renderers import render
from runner.results.renderers.cells import measured
from runner.results.renderers.json_table import table_of_json
from runner.results.significance import mark, welch
from runner.results.table_model import Cell, Table, TableSpec
from runner.table import main
from tests.runner.results.conftest import PPL

METRIC = "val/acc"


def outcomes(values: np.ndarray) -> list[Measurements]:
    """Return runs with the given metric values, of shape (folds, epochs)."""
    return [
        Measurements(
            {METRIC: row[-1]}, [{"epoch": e, METRIC: v} for e, v in enumerate(row)], {"dataset": {"fold": fold % 2}}
        )
        for fold, row in enumerate(values)
    ]


def test_reductions_against_their_definitions() -> None:
    values = np.random.default_rng(0).random((10, 20))
    runs = outcomes(values)
    best = max(range(20), key=lambda epoch: values[:, epoch].mean())
    assert REDUCTIONS["xu_cv"](runs, METRIC) == pytest.approx((values[:, best].mean(), np.std(values[:, best], ddof=0)))
    assert REDUCTIONS["mean_std"](runs, METRIC) == pytest.approx((values[:, -1].mean(), np.std(values[:, -1], ddof=1)))
    assert REDUCTIONS["mean_std_ddof0"](runs, METRIC)[1] == pytest.approx(np.std(values[:, -1]))
    means = values.mean(1)
    assert REDUCTIONS["epoch_mean"](runs, METRIC) == pytest.approx((means.mean(), np.std(means, ddof=1)))
    folds = [values[::2, -1].mean(), values[1::2, -1].mean()]
    assert REDUCTIONS["fair_cv"](runs, METRIC) == pytest.approx((np.mean(folds), np.std(folds)))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_one_run_has_no_deviation(reduce) -> None:
    assert np.isnan(REDUCTIONS[reduce](outcomes(np.ones((1, 3))), METRIC)[1])


SAME_SETTINGS = ("method.lr=0.01", "method.weight_decay=0.0", "model.learn_eps=false")  # in all grids of the table
EXPERIMENT = (
    "experiment=graphnorm/table1",
    "dataset=atlas",
    "method=graphnorm,graphnorm/batch",
    "dataset.fold=0,1",
    *SAME_SETTINGS,
)
SMALL = ("model.hidden=8", "model.layers=2", "schedule.max_epochs=2")


def test_a_run_of_several_grids_counts_once() -> None:
    runs = runs_of(list(EXPERIMENT))
    assert len(runs) == len({run.id for run in runs}) == 4


@pytest.mark.slow
def test_a_table_of_real_runs(call, tmp_path, capfd) -> None:
    place = f"paths.outputs={tmp_path}"
    code, printed = call("-m", *EXPERIMENT, *SMALL, "dataset.fold=0", "logger=csv", place)
    assert code == 0, printed
    table = build_table([*EXPERIMENT, *SMALL, place])
    cell = table.cells["GIN + GraphNorm", "atlas"]
    assert cell.states == {"finished": 1, "missing": 1}
    (folder,) = tmp_path.glob("graphnorm/graphnorm-atlas-gin/*")
    with open(folder / "metrics.csv") as file:
        best = max(float(row[METRIC]) for row in csv.DictReader(file))
    assert cell.value == pytest.approx(100 * best)

    (folder / "result.json").write_text(
        (folder / "result.json").read_text().replace('networks.py": "', 'networks.py": "0')
    )
    assert build_table([*EXPERIMENT, *SMALL, place]).cells["GIN + GraphNorm", "atlas"].states["stale"] == 1
    (folder / "result.json").unlink()
    (folder / "state.json").write_text('{"state": "failed"}')
    assert build_table([*EXPERIMENT, *SMALL, place]).cells["GIN + GraphNorm", "atlas"].states["failed"] == 1

    capfd.readouterr()
    main([*EXPERIMENT, *SMALL, place, "format=csv"])
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["missing"] for row in rows] == ["1", "1"]


def test_reported_figures_stand_beside(tmp_path, capsys) -> None:
    main(["experiment=graphnorm/table1", "dataset=mutag", f"paths.outputs={tmp_path}"])
    printed = capsys.readouterr().out
    assert "91.6 ± 6.5\n" in printed
    assert "optimistic" in printed


def test_a_figure_that_could_not_be_checked_is_marked() -> None:
    figure = {"row": "a", "column": "b", "value": 82.4, "std": 6.4, "mark": "recalled"}
    table = Table("title", "source", ["a"], ["b"], {("a", "b"): Cell(reported=figure)}, [])
    assert "82.4 ± 6.4?" in render(table, "text")


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_formats(form, tmp_path, capsys) -> None:
    main(["experiment=graphnorm/table1", "dataset=mutag", f"paths.outputs={tmp_path}", f"format={form}"])
    printed = capsys.readouterr().out
    assert {"markdown": "| GIN + GraphNorm | measured |", "latex": r"91.6 $\pm$ 6.5", "csv": "91.6,6.5,seen"}[
        form
    ] in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the table"),
        (["experiment=graphnorm/demo"], "has no table"),
        (["experiment=graphnorm/table1", "format=pdf"], "text, markdown, latex, csv, json, html, png"),
        (["experiment=graphnorm/table1", "dataset=mutag", "significance=adam"], "names no row; choose from WL subtree"),
        (["experiment=graphnorm/table1_molhiv", "significance=true"], "significance=<row>"),
        (["experiment=graphnorm/table9"], "table9"),
        (["experiment=graphnorm/table1", "table.reduce=median"], "xu_cv"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_welch_against_scipy_and_its_formula() -> None:
    a, b = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9], [27.1, 22.0, 20.8, 23.4]
    assert welch(a, b) == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue, rel=1e-12)
    # |t| = 4 with 2 degrees of freedom, since one side does not vary: p = 1 - t / sqrt(t^2 + 2)
    assert welch([1.0, 2.0, 3.0], [2 + 4 / 3**0.5] * 5) == pytest.approx(1 - 4 / 18**0.5)
    # two of variance 1/2 on each side: 2 degrees of freedom again, t = 3 / sqrt(1/4 + 1/4)
    assert welch([0.0, 1.0], [3.0, 4.0]) == pytest.approx(1 - (18 / 20) ** 0.5)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], []), ([1.0, 1.0], [2.0, 2.0, 2.0])])
def test_where_there_is_nothing_to_test(a, b) -> None:
    assert welch(a, b) is None
    assert welch(b, a) is None


def test_marks() -> None:
    assert [mark(p) for p in (None, 0.2, 0.05, 0.049, 0.01, 0.009, 0.0)] == ["", "", "", "*", "*", "**", "**"]


@pytest.mark.parametrize("row", ["E-Sparse", "esparse", "true"])
def test_every_row_is_tested_against_the_main_one(row, stories) -> None:
    table = build_table(stories, significance=row)
    assert table.main == "E-Sparse"
    p = {label: table.cells[label, "2:4"].p for label in table.rows}
    for label, name in {"dense": "dense", "Wanda": "wanda", "E-Sparse without LBS": "no_lbs"}.items():
        a, b = PPL[name], PPL["esparse"]
        if name != "dense":  # scipy warns of values that do not vary
            assert p[label] == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue)
    assert p["dense"] < 0.01
    assert p["E-Sparse"] is None


def test_folds_are_tested_at_the_epoch_that_is_reported() -> None:
    values = np.random.default_rng(1).random((2, 5, 8))
    sides = [REDUCTIONS["xu_cv"].values(outcomes(side), METRIC) for side in values]
    at_best = [side[:, side.mean(0).argmax()] for side in values]
    assert welch(*sides) == pytest.approx(ttest_ind(*at_best, equal_var=False).pvalue)


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("text", ["75.0 ± 1.0** (n=3)", "46.3 ± 1.5 (n=3)", "45.0 ± 7.1 (n=2, 2/3)", "Welch"]),
        ("markdown", [r"75.0 ± 1.0\*\* (n=3)", r"- \* p < 0.05, \*\* p < 0.01"]),
        ("latex", [r"75.0 $\pm$ 1.0$^{**}$ (n=3)"]),
    ],
)
def test_p_values_are_shown(form, shown, stories, capsys) -> None:
    main([*stories, "significance=esparse", f"format={form}"])
    printed = capsys.readouterr().out
    for text in shown:
        assert text in printed


def test_without_significance_nothing_is_tested(stories, capsys) -> None:
    main([*stories, "format=csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["n"], row["p"]) for row in rows] == [("3", ""), ("3", ""), ("2", ""), ("3", "")]
    main(stories)
    assert "75.0 ± 1.0\n" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "png"])
def test_another_metric(form, stories, tmp_path, capsys) -> None:
    main([*stories, "table.metric=test/retained", f"format={form}", "logger=csv"])
    printed = capsys.readouterr().out
    assert "0.745" in printed
    assert "perplexity" not in printed
    if form != "csv":
        assert "without test/retained, left out: of dense" in printed
    if form == "png":
        assert (tmp_path / "figures" / "esparse" / "stories" / printed.splitlines()[-2].split("/")[-1]).exists()


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "png"])
def test_several_metrics_have_a_column_each(form, stories, capsys) -> None:
    both = [*stories, "table.metric=[test/ppl,test/retained]"]
    table = build_table(both)
    (column,) = build_table(stories).columns
    for metric, shown in (("test/ppl", "perplexity"), ("test/retained", "test/retained")):
        alone = build_table([*stories, f"table.metric={metric}"]).cells
        assert {row: alone[row, column].values for row in table.rows if (row, column) in alone} == {
            row: table.cells[row, f"{column} {shown}"].values for row in table.rows
        }
    main([*both, f"format={form}", "logger=csv"])
    printed = capsys.readouterr().out
    if form != "csv":
        assert "without test/retained, left out: of dense" in printed


def test_several_metrics_have_no_epoch_in_common(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["experiment=graphnorm/table1", "dataset=mutag", "table.metric=[val/acc,val/loss]"])
    assert "reads the epochs of one metric" in capsys.readouterr().err


def test_reported_figures_are_of_the_experiments_own_metric(tmp_path) -> None:
    overrides = ["experiment=graphnorm/table1", "dataset=mutag", f"paths.outputs={tmp_path}"]
    assert any(cell.reported for cell in build_table(overrides).cells.values())
    assert not any(cell.reported for cell in build_table([*overrides, "table.metric=train/acc"]).cells.values())


def test_a_metric_that_no_run_has_ends_in_one_message(stories, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        main([*stories, "table.metric=test/perplexity"])
    assert error.value.code == 2
    assert "they have recorded: test/ppl, test/retained" in capsys.readouterr().err


def test_runs_that_all_lack_the_metric_are_not_missing() -> None:
    assert measured(Cell(states=Counter(finished=2, stale=1)), 1) == "-"
    assert measured(Cell(states=Counter(finished=2, missing=1)), 1) == "- (0/3)"


def test_damaged_files_of_a_run_leave_it_out(stories, tmp_path, capsys) -> None:
    """Damaged files do not affect other runs."""
    damaged, empty, text = sorted(tmp_path.glob("esparse/wanda-*/*"))
    (damaged / "metrics.csv").write_text("epoch,step,val/acc\n0,1,much\n")
    (empty / "result.json").write_text("{}")
    write_json(text / "result.json", {"metrics": {"test/ppl": "low"}, "seconds": {}, "code": {}})
    main([*stories, "format=csv"])
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert (rows["Wanda"]["n"], rows["Wanda"]["missing"]) == ("1", "1")
    assert rows["E-Sparse"]["n"] == "3"
    main(stories)
    assert "finished runs without test/ppl, left out: of Wanda" in capsys.readouterr().out


def test_a_reduction_over_epochs_names_damaged_files(tmp_path, capsys) -> None:
    overrides = ["experiment=graphnorm/table1", "dataset=mutag", "method=graphnorm", f"paths.outputs={tmp_path}"]
    for fold in (0, 1):
        run = Run.compose([*overrides, f"dataset.fold={fold}"])
        run.folder.mkdir(parents=True)
        write_json(run.folder / "result.json", {"metrics": {}, "seconds": {}, "code": {}})
        value = "much" if fold else "0.5"
        (run.folder / "metrics.csv").write_text(f"epoch,step,val/acc\n0.0,1,{value}\n")
    main([*overrides, "dataset.fold=0,1"])
    printed = capsys.readouterr().out
    assert "50.0 (1/2)" in printed
    assert f"{run.folder / 'metrics.csv'} cannot be read" in printed


NODE = {"rows": "method", "metric": "m", "reduce": "mean_std"}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (NODE | {"colums": "dataset"}, "unknown key table.colums;"),
        ({"rows": "method", "reduce": "mean_std"}, "table.metric is missing"),
        (
            NODE | {"reported": [{"row": "a", "column": "b", "value": "high"}]},
            r"reported\.0\.value: must be a valid num",
        ),
        (NODE | {"reported": [{"row": "a", "value": 1}]}, r"table\.reported\.0\.column is missing"),
        (NODE | {"reported": [{"row": "a", "column": "b", "value": 1, "by": "me"}]}, "place: row, column, value, std"),
    ],
)
def test_a_wrong_node_is_refused(node, message) -> None:
    with pytest.raises(UserError, match=message):
        TableSpec.read(node, "a/b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("table.rows=5", "table.rows: must be a name or a list, got 5"),
        ("table.scale=abc", "table.scale: must be a number, or a mapping of metrics to such, got 'abc'"),
        ("table.scale=nan", "table.scale: must be a number"),
        ("table.digits=x", "table.digits: must be a whole number of at least 0"),
        ("table.digits=1.5", "table.digits: must be a whole number of at least 0"),
        ("table.digits=-1", "table.digits: must be a whole number of at least 0"),
        ("table.labels=5", "table.labels: must be a mapping of values to labels, got 5"),
        ("table.metric=5", "table.metric: must be a name or a list, got 5"),
        ("table.metric=null", "table.metric is missing"),
        ("table.metric=[]", "table.metric: "),
        ("table.notes=5", "table.notes: must be a name or a list, got 5"),
        ("table.title=5", "table.title: must be a valid string, got 5"),
        ("table=5", "table: must be a valid dictionary"),
    ],
)
def test_a_value_that_does_not_fit_the_table_is_one_message(override, message) -> None:
    with pytest.raises(UserError) as error:
        build_table(["experiment=esparse/memory", override])
    assert str(error.value).startswith(message)


def test_metrics_may_have_scale_and_digits_of_their_own(stories) -> None:
    metrics = "table.metric=[test/ppl,test/retained]"
    table = build_table([*stories, metrics, "+table.scale={test/retained:100}", "table.digits={test/ppl:2}"])
    assert "test/ppl, test/retained (%), mean_std" in table.notes[0]
    lines = render(table, "markdown").splitlines()
    (wanda,) = (line.split(" | ")[2:] for line in lines if line.startswith("| Wanda | measured"))
    ppl, retained = (wanda[table.columns.index(column)] for column in ("2:4 perplexity", "2:4 test/retained"))
    assert ppl.startswith("75.00 ")
    assert retained.startswith("77.5 ")  # 0.7 + 75 / 1000, in three significant digits
    read = table_of_json(render(table, "json"))
    assert render(read, "html") == render(table, "html")
    with pytest.raises(UserError, match=r"table\.scale of experiment=esparse/stories names test/acc, no table\.metric"):
        build_table([*stories, metrics, "+table.scale={test/acc:100}"])


def test_html_alone_imports_jinja() -> None:
    code = "import sys, runner.table; sys.exit('jinja2' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_epoch_is_chosen_among_those_that_all_runs_have() -> None:
    from runner.results.reductions import (
        Measurements,
        count_partial_epochs,
        means_over_epochs,
        values_at_best_epoch,
    )

    def run(**curve: float) -> Measurements:
        return Measurements({}, [{"epoch": int(e[1:]), "val/acc": v} for e, v in curve.items()], {})

    runs = [run(e0=0.1, e1=0.2, e2=0.9), run(e1=0.3, e2=0.8, e3=1.0)]
    assert values_at_best_epoch(runs, "val/acc") == [0.9, 0.8]
    assert means_over_epochs(runs, "val/acc") == pytest.approx([0.55, 0.55])
    assert count_partial_epochs(runs, "val/acc") == 2
    with pytest.raises(ValueError, match="an epoch that all runs"):
        values_at_best_epoch([run(e0=0.1), run(e1=0.2)], "val/acc")
