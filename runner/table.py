"""`python -m runner.table experiment=E`: a paper's table, measured beside reported, from the runs of its sweep."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from runner.address import Run, resolved
from runner.compose import compose, expand, parse
from runner.console import reader_may_leave
from runner.errors import UserError
from runner.record import is_stale, read_metrics, read_result
from runner.reductions import NOTES, REDUCTIONS, Outcome
from runner.render import FORMATS, render
from runner.survey import state_of, value_of


@dataclass
class Cell:
    """One cell: its runs' states, what was measured, what is reported. Values are already scaled."""

    states: Counter[str] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    value: float | None = None
    deviation: float | None = None
    reported: dict[str, Any] | None = None


@dataclass
class Table:
    """rows, columns: labels in order; cells: by (row, column); notes: what a reader must know."""

    title: str
    source: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]
    notes: list[str]
    digits: int = 1  # after the point


@reader_may_leave()
def main(arguments: list[str] | None = None) -> None:
    """Exit codes: 0; 2 for a mistake of the user's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        form = next((a.removeprefix("format=") for a in arguments if a.startswith("format=")), "text")
        if form not in FORMATS:
            raise UserError(f"format={form} is unknown; choose from {', '.join(FORMATS)}")
        overrides = [a for a in arguments if not a.startswith("format=")]
        if not any(o.startswith("experiment=") for o in overrides):
            raise UserError("name the table: python -m runner.table experiment=<paper>/<table> [format=...]")
        print(render(build(overrides), form))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(str(error) or error.__cause__ or type(error).__name__, file=sys.stderr)
        sys.exit(2)


def build(overrides: list[str]) -> Table:
    """The table of the experiment that the overrides name, from the runs that are on disk.

    Raises UserError where the experiment has no table, or its node names an unknown reduction.
    """
    cfg = compose([o for o in overrides if not _sweeps(o)])
    node = _table_node(cfg, overrides)
    runs = expand(cfg, overrides)
    row_keys, column_keys = _keys(node["rows"]), _keys(node["columns"])
    labels = {str(key): value for key, value in node.get("labels", {}).items()}
    cells: dict[tuple[str, str], Cell] = {}
    for override in runs:
        run = Run.compose(override)
        place = (label_of(run, row_keys, labels), label_of(run, column_keys, labels))
        _add(cells.setdefault(place, Cell()), run)
    reported_only = []
    for figure in node.get("reported", []):
        place = (figure["row"], figure["column"])
        if place in cells:
            cells[place].reported = figure
        elif place[1] in {column for _, column in cells}:
            cells[place] = Cell(reported=figure)
            reported_only.append(place[0])
    for cell in cells.values():
        _reduce(cell, node)
    rows = list(dict.fromkeys([*reported_only, *(row for row, _ in cells)]))
    columns = list(dict.fromkeys(column for _, column in cells))
    return Table(
        title=node.get("title", ""),
        source=node.get("source", ""),
        rows=rows,
        columns=columns,
        digits=node.get("digits", 1),
        cells=cells,
        notes=_notes(node, cells),
    )


def _table_node(cfg: DictConfig, overrides: list[str]) -> dict[str, Any]:
    if "table" not in cfg:
        raise UserError(f"{' '.join(o for o in overrides if o.startswith('experiment='))} has no table: node")
    node = resolved(cfg.table)
    if node["reduce"] not in REDUCTIONS:
        raise UserError(f"table.reduce={node['reduce']} is unknown; choose from {', '.join(REDUCTIONS)}")
    return node


def _sweeps(override: str) -> bool:
    return parse(override).is_sweep_override()


def _keys(keys: str | list[str]) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys)


def label_of(run: Run, keys: list[str], labels: dict[str, str]) -> str:
    """What a row or column is called: the values of its keys."""
    values = [value_of(run, key) for key in keys]
    return labels.get(" ".join(values)) or " ".join(labels.get(value, value) for value in values)


def _add(cell: Cell, run: Run) -> None:
    """Looks a run up by its address and enters it."""
    result = read_result(run.folder)
    if result is None:
        cell.states[state_of(run)] += 1
    else:
        cell.states["stale" if is_stale(result) else "finished"] += 1
        cell.outcomes.append(Outcome(result["metrics"], read_metrics(run.folder), run.identity))


def _reduce(cell: Cell, node: dict[str, Any]) -> None:
    scale = node.get("scale", 1)
    if cell.outcomes:
        try:
            value, deviation = REDUCTIONS[node["reduce"]](cell.outcomes, node["metric"])
        except (KeyError, ValueError) as error:
            raise UserError(f"the runs have no {node['metric']} to reduce by {node['reduce']}: {error}") from error
        cell.value, cell.deviation = value * scale, deviation * scale


def _notes(node: dict[str, Any], cells: dict[tuple[str, str], Cell]) -> list[str]:
    notes = [f"{node['metric']}, {node['reduce']}: {NOTES[node['reduce']]}"]
    if any(cell.reported and cell.reported.get("mark") == "recalled" for cell in cells.values()):
        notes.append("? : this reported figure could not be checked against the paper")
    if any(cell.states["stale"] for cell in cells.values()):
        notes.append("stale: made by other code of the method than is here now; rerun=true makes it anew")
    return notes + list(node.get("notes", []))


if __name__ == "__main__":
    main()
