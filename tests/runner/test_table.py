"""Reductions against direct computation, and a table printed from real runs."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from runner.reductions import REDUCTIONS, Outcome
from runner.render import render
from runner.table import Cell, Table, build, main

METRIC = "val/acc"


def outcomes(values: np.ndarray) -> list[Outcome]:
    """values: (folds, epochs)."""
    return [
        Outcome(
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
    folds = [values[::2, -1].mean(), values[1::2, -1].mean()]
    assert REDUCTIONS["fair_cv"](runs, METRIC) == pytest.approx((np.mean(folds), np.std(folds)))


def test_one_run_has_no_deviation() -> None:
    assert np.isnan(REDUCTIONS["mean_std"](outcomes(np.ones((1, 3))), METRIC)[1])


EXPERIMENT = ("experiment=graphnorm/table1", "dataset=atlas", "method=graphnorm,graphnorm/batch", "dataset.fold=0,1")
SMALL = ("model.hidden=8", "model.layers=2", "schedule.max_epochs=2")


@pytest.mark.slow
def test_a_table_of_real_runs(call, tmp_path, capfd) -> None:
    place = f"paths.outputs={tmp_path}"
    code, printed = call("-m", *EXPERIMENT, *SMALL, "dataset.fold=0", "logger=csv", place)
    assert code == 0, printed
    table = build([*EXPERIMENT, *SMALL, place])
    cell = table.cells["GIN + GraphNorm", "atlas"]
    assert cell.states == {"finished": 1, "not started": 1}
    (folder,) = tmp_path.glob("graphnorm/graphnorm-atlas-gin/*")
    with open(folder / "metrics.csv") as file:
        best = max(float(row[METRIC]) for row in csv.DictReader(file))
    assert cell.value == pytest.approx(100 * best)

    (folder / "result.json").write_text(
        (folder / "result.json").read_text().replace('networks.py": "', 'networks.py": "0')
    )
    assert build([*EXPERIMENT, *SMALL, place]).cells["GIN + GraphNorm", "atlas"].states["stale"] == 1
    (folder / "result.json").unlink()
    (folder / "state.json").write_text('{"state": "failed"}')
    assert build([*EXPERIMENT, *SMALL, place]).cells["GIN + GraphNorm", "atlas"].states["failed"] == 1

    capfd.readouterr()
    main([*EXPERIMENT, *SMALL, place, "format=csv"])
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["not started"] for row in rows] == ["1", "1"]


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
        (["experiment=graphnorm/table1", "format=pdf"], "text, markdown, latex, csv"),
        (["experiment=graphnorm/table9"], "table9"),
        (["experiment=graphnorm/table1", "table.reduce=median"], "xu_cv"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
