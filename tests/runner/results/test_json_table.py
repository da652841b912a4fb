"""Tables stored as JSON, read back, and rendered into pages."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from runner.errors import UserError
from runner.results.renderers import render
from runner.results.renderers.json_table import table_of_json
from runner.results.renderers.markdown import markdown
from runner.results.table_model import Cell, Table
from runner.table import main
from scripts import docs_tables

CELLS = {
    ("a", "x"): Cell(
        Counter(finished=2), 2, 1.5, 0.7, {"value": 1.25, "std": 0.5, "mark": "seen"}, [1.0, 2.0], 0.0, "m"
    ),
    ("b", "x"): Cell(Counter(finished=1, failed=1), 1, 3.0, math.nan, None, [3.0], 0.04, "m"),
    ("c", "x"): Cell(reported={"value": 9.0, "mark": "recalled"}),
    ("d", "x"): Cell(Counter(missing=2), metric="m"),
    ("e", "x"): Cell(Counter(finished=1), 1, math.inf, math.nan, None, [math.inf], None, "m"),
}
TABLE = Table(
    title="a title",
    source="a paper",
    rows=list("abcde"),
    columns=["x"],
    cells=CELLS,
    notes=["a note"],
    digits=2,
    metric="m (%)",
    main="a",
    numerics=[({"device": "cpu", "threads": "1"}, 3), (None, 1)],
    commits={"0123456789ab": 4},
    command="python -m runner.table experiment=p/t",
)


def test_a_table_read_back_renders_the_same() -> None:
    stored = render(TABLE, "json")
    read = table_of_json(stored)
    for form in ("text", "markdown", "latex", "html", "csv"):
        assert render(read, form).replace("nan", "") == render(TABLE, form).replace("nan", "")
    assert (read.numerics, read.commits, read.command) == (TABLE.numerics, TABLE.commits, TABLE.command)
    assert read.cells["a", "x"].values == [1.0, 2.0]
    content = json.loads(stored, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["date"]
    assert "commit" in content["git"]


@pytest.mark.parametrize("text", ["{}", "[]", '{"cells": [{}]}', "no json"])
def test_other_json_is_refused(text, tmp_path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (of json or our own)
        table_of_json(text)
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"t\.json"):
        docs_tables.render_stored_table(tmp_path / "t.json")


def test_the_command_writes_a_table_to_a_file(tmp_path, capsys) -> None:
    out = tmp_path / "new" / "graphnorm-table1.json"
    arguments = ["experiment=graphnorm/table1", "dataset=mutag", f"paths.outputs={tmp_path}", "logger=csv"]
    main([*arguments, "format=json", f"out={out}"])
    assert capsys.readouterr().out == f"{out}\n"
    table = table_of_json(out.read_text())
    assert table.cells["GIN + GraphNorm", "MUTAG"].reported == {
        "row": "GIN + GraphNorm",
        "column": "MUTAG",
        "value": 91.6,
        "std": 6.5,
        "mark": "seen",
    }
    assert table.command == "python -m runner.table experiment=graphnorm/table1 dataset=mutag"
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as error:
        main([*arguments, f"out={tmp_path / 'file' / 'table.txt'}"])
    assert error.value.code == 2
    assert "Name another file with out=<file>" in capsys.readouterr().err


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "results").mkdir(parents=True)
    (docs / "methods").mkdir()
    (docs / "results" / "p-t.json").write_text(render(TABLE, "json"))
    page = "# P\n\n<!-- table: p-t -->\nold, typed by hand\n<!-- end -->\n\nafter\n"
    (docs / "methods" / "p.md").write_text(page)
    return docs


def test_pages_get_their_stored_tables(docs, monkeypatch, capsys) -> None:
    monkeypatch.setattr(docs_tables, "DOCS", docs)
    page = docs / "methods" / "p.md"
    with pytest.raises(SystemExit):
        docs_tables.main(["check=true"])
    assert "make docs-tables" in capsys.readouterr().err
    docs_tables.main([])
    text = page.read_text()
    assert markdown(TABLE) in text
    assert "    python -m runner.table experiment=p/t\n" in text
    assert "- numerics of 3 runs: device cpu, threads 1\n" in text
    assert text.startswith("# P\n\n<!-- table: p-t -->\n")
    assert text.endswith("<!-- end -->\n\nafter\n")
    assert "typed by hand" not in text
    docs_tables.main(["check=true"])
    assert not docs_tables.outdated_pages(docs)
    page.write_text(text.replace("1.50", "1.60"))  # retyped
    assert list(docs_tables.outdated_pages(docs)) == [page]


def test_tables_without_a_page_and_pages_without_a_table_are_named(docs) -> None:
    (docs / "results" / "q-t.json").write_text(render(TABLE, "json"))
    assert docs_tables.unused_tables(docs) == ["q-t"]
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        docs_tables.render_page("<!-- table: none -->\n<!-- end -->", docs / "results")
