"""Build a paper's table from the runs of its experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runner.config.address import Run, resolved
from runner.config.compose import compose_without_sweep, parse
from runner.config.grids import expand_sweep
from runner.errors import UserError
from runner.results.reductions import REDUCTIONS, Reduction
from runner.results.significance import LEGEND, welch
from runner.results.sources import OUTPUTS, Found, look_up
from runner.results.table_model import Cell, Table, as_names


def build_table(overrides: list[str], significance: str = "", source: str = OUTPUTS) -> Table:
    """The table of the experiment that the overrides name, from the runs that the source has.

    significance: as in the module's docstring; empty: no tests. Raises UserError where the experiment has no table, its
    node names an unknown reduction, no finished run has the metric, or there is no such row or source.
    """
    node = _table_node(overrides)
    reduction, metrics = REDUCTIONS[node["reduce"]], as_names(node["metric"])
    if reduction.per_epoch and len(metrics) > 1:
        raise UserError(f"table.reduce={node['reduce']} picks an epoch by one metric; table.metric names several")
    labels = {str(key): value for key, value in node.get("labels", {}).items()}
    runs = [Run.compose(override) for override in expand_sweep(compose_without_sweep(overrides), overrides)]
    found = look_up(source, runs, metrics[0] if reduction.per_epoch else None)
    cells = _measured(runs, found, node, labels)
    recorded = {name for _, outcome in found if outcome for row in [outcome.metrics, *outcome.rows] for name in row}
    lacking = [(cell.metric, row) for (row, _), cell in cells.items() if not _reduce(cell, reduction, node)]
    if lacking and not any(cell.n for cell in cells.values()):
        raise UserError(
            f"no finished run has {' or '.join(metrics)} to reduce by {node['reduce']}; they have recorded: "
            f"{', '.join(sorted(recorded))}"
        )
    reported_only = _enter_reported(cells, node.get("reported", []))
    rows = list(dict.fromkeys([*reported_only, *(row for row, _ in cells)]))
    main_row = _main_row(significance, node, rows, labels)
    if main_row:
        for (row, column), cell in cells.items():
            if row != main_row and (main_row, column) in cells:
                cell.p = welch(cell.values, cells[main_row, column].values)
    return Table(
        title=node.get("title", ""),
        source=node.get("source", ""),
        rows=rows,
        columns=list(dict.fromkeys(column for _, column in cells)),
        cells=cells,
        notes=_notes(node, reduction, cells, lacking, main_row, source),
        digits=node.get("digits") or _digits(cells),
        metric=(labels.get(metrics[0], metrics[0]) if len(metrics) == 1 else "") + _unit(node),
        main=main_row,
        sample=reduction.sample,
    )


def _table_node(overrides: list[str]) -> dict[str, Any]:
    """The node `table`. With another metric than the experiment's own it loses what holds for that one alone."""
    cfg = compose_without_sweep(overrides)
    if "table" not in cfg:
        raise UserError(f"{' '.join(o for o in overrides if o.startswith('experiment='))} has no table: node")
    node = resolved(cfg.table)
    if node["reduce"] not in REDUCTIONS:
        raise UserError(f"table.reduce={node['reduce']} is unknown; choose from {', '.join(REDUCTIONS)}")
    keys = {o: parse(o).key_or_group or "" for o in overrides}
    of_table = {key: o for o, key in keys.items() if key.startswith("table.")}
    own = resolved(compose_without_sweep([o for o in overrides if o not in of_table.values()]).table)
    if node["metric"] != own["metric"]:
        other: dict[str, Any] = {
            "title": f"{cfg.hydra.runtime.choices.experiment}: {', '.join(as_names(node['metric']))}",
            "digits": None,
            "reported": [],
        }
        node |= {key: value for key, value in other.items() if f"table.{key}" not in of_table}
    return node


def _measured(
    runs: list[Run], found: list[Found], node: dict[str, Any], labels: dict[str, str]
) -> dict[tuple[str, str], Cell]:
    """The cells in the order of the sweep, with their runs' states and outcomes."""
    rows, columns, metrics = as_names(node["rows"]), as_names(node.get("columns") or []), as_names(node["metric"])
    cells: dict[tuple[str, str], Cell] = {}
    for run, (state, outcome) in zip(runs, found, strict=True):
        for metric in metrics:
            column = [label_of(run, columns, labels)] if columns else []
            column += [labels.get(metric, metric)] if len(metrics) > 1 or not columns else []
            cell = cells.setdefault((label_of(run, rows, labels), " ".join(column)), Cell(metric=metric))
            cell.states[state] += 1
            if outcome:
                cell.outcomes.append(outcome)
    return cells


def label_of(run: Run, keys: Sequence[str], labels: dict[str, str]) -> str:
    """What a row or column is called: the values of its keys."""
    return _label([run.label_value(key) for key in keys], labels)


def _label(values: list[str], labels: dict[str, str]) -> str:
    return labels.get(" ".join(values)) or " ".join(labels.get(value, value) for value in values)


def _enter_reported(cells: dict[tuple[str, str], Cell], reported: list[dict[str, Any]]) -> list[str]:
    """Enters the reported figures of the columns that are there; returns the rows that nothing here measures."""
    reported_only = []
    columns = {column for _, column in cells}
    for figure in reported:
        place = (figure["row"], figure["column"])
        if place in cells:
            cells[place].reported = figure
        elif place[1] in columns:
            cells[place] = Cell(reported=figure)
            reported_only.append(place[0])
    return reported_only


def _reduce(cell: Cell, reduction: Reduction, node: dict[str, Any]) -> bool:
    """Reduces the outcomes that have the metric, and drops the others; False where there were others."""
    outcomes, cell.outcomes = cell.outcomes, [o for o in cell.outcomes if reduction.applies(o, cell.metric)]
    if cell.outcomes:
        try:
            values = reduction.values(cell.outcomes, cell.metric)
        except (KeyError, ValueError) as error:
            raise UserError(f"{cell.metric} cannot be reduced by {node['reduce']}: {error} is missing") from error
        cell.values = [value * node.get("scale", 1) for value in values]
        cell.value, cell.deviation = reduction.summarize(cell.values)
    return len(cell.outcomes) == len(outcomes)


def _main_row(significance: str, node: dict[str, Any], rows: list[str], labels: dict[str, str]) -> str | None:
    """The label of the row that `significance` names by its label or value."""
    if not significance:
        return None
    named = node.get("main") if significance == "true" else significance
    if named is None:
        raise UserError("the experiment's table has no main: row; name one: significance=<row>")
    row = named if named in rows else _label(str(named).split(), labels)
    if row not in rows:
        raise UserError(f"significance={named} names no row; choose from {', '.join(rows)}")
    return row


def _digits(cells: dict[tuple[str, str], Cell]) -> int:
    """So many that the smallest mean shows three digits."""
    means = [abs(cell.value) for cell in cells.values() if cell.value and math.isfinite(cell.value)]
    return max(0, 2 - math.floor(math.log10(min(means)))) if means else 1


def _unit(node: dict[str, Any]) -> str:
    scale = node.get("scale", 1)
    return {1: "", 100: " (%)"}.get(scale, f" x {scale}")


def _notes(
    node: dict[str, Any],
    reduction: Reduction,
    cells: dict[tuple[str, str], Cell],
    lacking: list[tuple[str, str]],
    main: str | None,
    source: str,
) -> list[str]:
    notes = [f"{', '.join(as_names(node['metric']))}{_unit(node)}, {node['reduce']}: {reduction.note}"]
    for metric in dict.fromkeys(metric for metric, _ in lacking):
        rows = dict.fromkeys(row for of, row in lacking if of == metric)
        notes.append(f"finished runs without {metric}, left out: of {', '.join(rows)}")
    if main:
        notes.append(
            f"{LEGEND} against {main} in the same column: Welch's t-test, two-sided, on the n {reduction.sample} of "
            "each cell; not corrected for the number of tests; none with fewer than 2 on a side or no spread"
        )
        if reduction.sample == "folds":
            notes.append("folds share training data, so they are not independent, and p comes out too small")
    if any(cell.reported and cell.reported.get("mark") == "recalled" for cell in cells.values()):
        notes.append("? : this reported figure could not be checked against the paper")
    if any(cell.states["stale"] for cell in cells.values()):
        notes.append("stale: made by other code of the method than is here now; rerun=true makes it anew")
    if source != OUTPUTS:
        notes.append(f"runs read from {source}, which does not know of stale ones")
    return notes + list(node.get("notes", []))
