"""Tables as bar charts."""

from __future__ import annotations

import csv

import pytest
from matplotlib.colors import to_hex

from runner.execution.plot_style import colour, pyplot
from runner.results.build_table import build_table
from runner.results.draw_table import draw_table
from runner.table import main
from tests.runner.results.texts import overlapping_texts


def test_the_chart_shows_means_deviations_and_reported_figures(stories) -> None:
    reported = {"row": "Wanda", "column": "2:4", "value": 70.0, "std": 2.0, "mark": "seen"}
    table = build_table(stories, significance="esparse")
    table.cells["Wanda", "2:4"].reported = reported
    figure = draw_table(table)
    ax = figure.axes[0]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([4, 75, 45, 139 / 3])
    assert [label.get_text() for label in ax.get_yticklabels()] == table.rows
    ends = {tuple(segment[:, 0]) for lines in ax.collections for segment in lines.get_segments()}
    assert {(74.0, 76.0), (68.0, 72.0)} <= ends
    assert ax.get_xscale() == "linear"
    assert ax.get_xlim()[0] == 0
    with pyplot():
        own = to_hex(colour(0))  # the paper's own method is the first of its methods
    colours = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colours.index(own) == table.rows.index("E-Sparse")
    assert len(set(colours)) == len(table.rows)
    assert [label.get_text() for label in ax.get_yticklabels() if label.get_weight() == "bold"] == [table.main]
    assert ax.get_xlabel() == "perplexity"
    assert [text.get_text() for text in ax.texts] == ["**", "**", "", ""]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["reported"]
    table.cells["Wanda", "2:4"].value = 90.0
    ax = draw_table(table).axes[0]
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "perplexity (logarithmic)"


def test_a_chart_of_several_metrics_has_an_axis_for_each(stories) -> None:
    table = build_table([*stories, "table.metric=[test/ppl,test/retained]"])
    axes = draw_table(table).axes
    ends = {table.columns[i]: axes[i].get_xlim()[1] for i in range(2)}
    for column, end in ends.items():
        found = [cell for (_, name), cell in table.cells.items() if name == column and cell.value is not None]
        largest = max(cell.value + (cell.deviation or 0) for cell in found)
        assert largest < end < 1.2 * largest


def test_the_chart_is_saved_and_logged(stories, tmp_path, monkeypatch, capsys) -> None:
    main([*stories, "format=png", "logger=csv"])
    folder = tmp_path / "figures" / "esparse" / "stories"
    (chart,) = folder.glob("table-test_ppl-*.png")
    from matplotlib.image import imread

    assert imread(chart).shape[1] == pytest.approx(3.3 * 300, abs=2)
    with open(chart.with_suffix(".csv"), newline="") as file:
        assert [float(row["value"]) for row in csv.DictReader(file)] == pytest.approx([4, 75, 45, 139 / 3])
    assert not (folder / "wandb").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*stories, "method=esparse/ria", "format=png", "logger=csv"])
    assert "python -m runner -m experiment=esparse/stories" in capsys.readouterr().err


@pytest.mark.slow
def test_the_chart_goes_to_a_wandb_run_of_its_own(stories, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    main([*stories, "format=png", "logger=wandb"])
    (tracked,) = (tmp_path / "figures" / "esparse" / "stories" / "wandb").glob("offline-run-*")
    assert len(list(tracked.rglob("*.png"))) == 1


@pytest.mark.parametrize("significance", ["", "esparse"])
def test_texts_of_the_chart_do_not_overlap(significance, stories) -> None:
    table = build_table([*stories, "table.metric=[test/ppl,test/retained]"], significance=significance)
    assert not overlapping_texts(draw_table(table))
