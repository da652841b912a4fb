"""Build a paper's table from the runs of its experiment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.config.address import Run, resolved
from runner.config.compose import compose_without_sweep, parse
from runner.errors import UserError
from runner.results.experiment_runs import runs_of
from runner.results.node_schema import TableNode, read_node
from runner.results.numerics import count_fingerprints, differences, most_frequent, numerics_notes
from runner.results.reductions import REDUCTIONS, Measurements, Reduction, count_partial_epochs
from runner.results.significance import LEGEND, welch
from runner.results.sources import OUTPUTS, RunOutcome, look_up
from runner.results.table_model import Cell, Table, TableSpec

Place = tuple[str, str]  # labels of row and column


@dataclass
class RunsOfCell:
    """Runs of one cell.

    Args:
        metric: metric of the cell.
        states: number of runs in each state.
        finished: measurements of the finished runs.
    """

    metric: str
    states: Counter[str] = field(default_factory=Counter)
    finished: list[Measurements] = field(default_factory=list)


def build_table(
    overrides: list[str], significance: str = "", source: str = OUTPUTS, same_numerics: bool = False
) -> Table:
    """Build the table of the experiment that the overrides name.

    Args:
        overrides: overrides of the runner, `experiment=...` among them.
        significance: row that the others are compared with, by its label or value; `true` for the main row of the
            experiment; empty for no tests.
        source: where the runs are looked up, see `look_up`.
        same_numerics: whether to leave out the runs that differ from the most frequent numerics.

    Raises:
        UserError: the experiment has no table, its node is malformed, no finished run has the metric, or there is no
            such row or source.
    """
    spec = table_spec(overrides)
    reduction = REDUCTIONS[spec.reduce]
    if reduction.per_epoch and len(spec.metric) > 1:
        raise UserError(f"table.reduce={spec.reduce} reads the epochs of one metric; table.metric names several")
    runs = runs_of(overrides)
    outcomes = look_up(source, runs, spec.metric[0] if reduction.per_epoch else None)
    left_out: list[str] = []
    if same_numerics:
        outcomes, left_out = leave_out_other_numerics(outcomes)
    groups = group_runs(spec, runs, outcomes)
    lacking = drop_runs_without_metric(spec, reduction, groups, outcomes)
    cells = {place: reduce_cell(group, reduction, spec) for place, group in groups.items()}
    reported_only = enter_reported(cells, spec.reported)
    rows = list(dict.fromkeys([*reported_only, *(row for row, _ in cells)]))
    main = main_row(significance, spec, rows)
    if main:
        compare_rows(cells, main)
    finished = [o.finished for o in outcomes if o.finished]
    damaged = [run.damage for run in finished if run.damage] if reduction.per_epoch else []
    partial = {f"{row} / {column}": count_partial_epochs(g.finished, g.metric) for (row, column), g in groups.items()}
    if reduction.per_epoch and any(partial.values()):
        places = ", ".join(f"{place} ({count})" for place, count in partial.items() if count)
        left_out.append(f"epochs that not all runs of a cell have, left out: of {places}")
    return Table(
        title=spec.title,
        source=spec.source,
        rows=rows,
        columns=list(dict.fromkeys(column for _, column in cells)),
        cells=cells,
        notes=[
            *metric_notes(spec, reduction, lacking, damaged),
            *significance_notes(main, reduction),
            *state_notes(cells, source),
            *left_out,
            *numerics_notes({place: group.finished for place, group in groups.items()}),
            *spec.notes,
        ],
        digits=digits_by_column(cells, spec),
        metric=spec.axis_label,
        main=main,
        sample=reduction.sample,
        numerics=count_fingerprints(finished),
        commits=dict(Counter(run.commit or "unknown" for run in finished).most_common()),
        methods={label_of(run, spec.rows, spec): run.label_value("method") for run in runs if "method" in spec.rows},
    )


def table_spec(overrides: list[str]) -> TableSpec:
    """Return the node `table` of an experiment.

    If the overrides choose another metric than the experiment's own, title, digits and reported figures of the
    experiment are left out, since they hold for its own metric alone.

    Raises:
        UserError: there is no such node, it is malformed, or its reduction is unknown.
    """
    cfg = compose_without_sweep(overrides)
    experiment = str(cfg.hydra.runtime.choices.get("experiment"))
    if "table" not in cfg:
        raise UserError(f"experiment={experiment} has no table: node")
    node = read_node(TableNode, resolved(cfg.table), "table")
    keys = {override: parse(override).key_or_group or "" for override in overrides}
    of_table = {key: override for override, key in keys.items() if key.startswith("table.")}
    if "table.metric" in of_table:
        own = compose_without_sweep([o for o in overrides if o not in of_table.values()]).table
        if read_node(TableNode, resolved(own), "table")["metric"] != node["metric"]:
            title = f"{experiment}: {', '.join(node['metric'])}"
            other: dict[str, object] = {"title": title, "digits": None, "reported": []}
            if isinstance(scale := node.get("scale"), dict):
                other["scale"] = {metric: scale[metric] for metric in node["metric"] if metric in scale}
            node |= {key: value for key, value in other.items() if f"table.{key}" not in of_table}
    spec = TableSpec.read(node, experiment)
    if spec.reduce not in REDUCTIONS:
        raise UserError(f"table.reduce={spec.reduce} is unknown; choose from {', '.join(REDUCTIONS)}")
    return spec


def label_of(run: Run, keys: Sequence[str], spec: TableSpec) -> str:
    """Return the label of a run's row or column: that of the values of its keys."""
    return spec.label([run.label_value(key) for key in keys])


def leave_out_other_numerics(outcomes: Sequence[RunOutcome]) -> tuple[list[RunOutcome], list[str]]:
    """Drop the measurements of runs that differ from the most frequent numerics.

    Returns:
        Outcomes, and a note on the runs that were left out.

    Raises:
        UserError: runs are finished, and none has recorded its numerics.
    """
    finished = [o.finished for o in outcomes if o.finished]
    if not finished:
        return list(outcomes), []
    kept = most_frequent(finished)
    others = [run for run in finished if run.numerics != kept]
    if not others:
        return list(outcomes), []
    keys = differences(finished)
    note = f"numerics=same: {len(others)} of {len(finished)} runs left out, which differ in {', '.join(keys)}"
    outcomes = [o if not o.finished or o.finished.numerics == kept else RunOutcome(o.state) for o in outcomes]
    return outcomes, [note]


def group_runs(spec: TableSpec, runs: Sequence[Run], outcomes: Sequence[RunOutcome]) -> dict[Place, RunsOfCell]:
    """Return the runs of each cell, in the order of the sweep."""
    groups: dict[Place, RunsOfCell] = {}
    for run, outcome in zip(runs, outcomes, strict=True):
        for metric in spec.metric:
            column = [label_of(run, spec.columns, spec)] if spec.columns else []
            column += [spec.label([metric])] if len(spec.metric) > 1 or not spec.columns else []
            place = (label_of(run, spec.rows, spec), " ".join(column))
            group = groups.setdefault(place, RunsOfCell(metric))
            group.states[outcome.state] += 1
            if outcome.finished:
                group.finished.append(outcome.finished)
    return groups


def drop_runs_without_metric(
    spec: TableSpec, reduction: Reduction, groups: Mapping[Place, RunsOfCell], outcomes: Sequence[RunOutcome]
) -> dict[str, list[str]]:
    """Drop the finished runs that have not recorded the metric of their cell.

    Returns:
        Rows of the dropped runs, by metric.

    Raises:
        UserError: no finished run has any of the metrics.
    """
    lacking: dict[str, list[str]] = {}
    for (row, _), group in groups.items():
        kept = [run for run in group.finished if reduction.applies(run, group.metric)]
        if len(kept) < len(group.finished) and row not in lacking.setdefault(group.metric, []):
            lacking[group.metric].append(row)
        group.finished = kept
    if lacking and not any(group.finished for group in groups.values()):
        finished = [o.finished for o in outcomes if o.finished]
        recorded = {name for run in finished for row in [run.metrics, *run.rows] for name in row}
        damage = "".join(f"\n{run.damage}" for run in finished if run.damage)
        raise UserError(
            f"no finished run has {' or '.join(spec.metric)} to reduce by {spec.reduce}; they have recorded: "
            f"{', '.join(sorted(recorded)) or 'nothing'}{damage}"
        )
    return lacking


def reduce_cell(group: RunsOfCell, reduction: Reduction, spec: TableSpec) -> Cell:
    """Return the cell of a group of runs: mean and standard deviation of its scaled values.

    Raises:
        UserError: the reduction needs a key that the runs do not have.
    """
    cell = Cell(states=group.states, used=len(group.finished), metric=group.metric)
    if not group.finished:
        return cell
    try:
        values = reduction.values(group.finished, group.metric)
    except (KeyError, ValueError) as error:
        raise UserError(f"{group.metric} cannot be reduced by {spec.reduce}: {error} is missing") from error
    cell.values = [value * spec.scale_of(group.metric) for value in values]
    cell.value, cell.deviation = reduction.summarize(cell.values)
    return cell


def enter_reported(cells: dict[Place, Cell], reported: Sequence[dict[str, object]]) -> list[str]:
    """Enter the reported figures of the columns that are there.

    Returns:
        Rows that have reported figures only.
    """
    reported_only = []
    columns = {column for _, column in cells}
    for figure in reported:
        place = (str(figure["row"]), str(figure["column"]))
        if place in cells:
            cells[place].reported = figure
        elif place[1] in columns:
            cells[place] = Cell(reported=figure)
            reported_only.append(place[0])
    return reported_only


def main_row(significance: str, spec: TableSpec, rows: Sequence[str]) -> str | None:
    """Return the label of the row that `significance` names by its label or value; None without tests.

    Raises:
        UserError: there is no such row.
    """
    if not significance:
        return None
    named = spec.main if significance == "true" else significance
    if named is None:
        raise UserError("the experiment's table has no main: row; name one: significance=<row>")
    row = str(named) if named in rows else spec.label(str(named).split())
    if row not in rows:
        raise UserError(f"significance={named} names no row; choose from {', '.join(rows)}")
    return row


def compare_rows(cells: Mapping[Place, Cell], main: str) -> None:
    """Enter the p-value of each cell against the main row's cell of the same column."""
    for (row, column), cell in cells.items():
        if row != main and (main, column) in cells:
            cell.p = welch(cell.values, cells[main, column].values)


def digits_by_column(cells: Mapping[Place, Cell], spec: TableSpec) -> int | dict[str, int]:
    """Return the digits after the point: one number if all columns have the same."""
    metrics = {column: cell.metric for (_, column), cell in cells.items() if cell.metric}
    digits = {}
    for column, metric in metrics.items():
        given = spec.digits_of(metric)
        alike = [cell for (_, other), cell in cells.items() if metrics.get(other) == metric]
        digits[column] = choose_digits(alike) if given is None else given
    return digits if len(set(digits.values())) > 1 else next(iter(digits.values()), 1)


def choose_digits(cells: Sequence[Cell]) -> int:
    """Return the digits after the point with which the smallest mean has three significant ones."""
    means = [abs(cell.value) for cell in cells if cell.value and math.isfinite(cell.value)]
    return max(0, 2 - math.floor(math.log10(min(means)))) if means else 1


def metric_notes(
    spec: TableSpec, reduction: Reduction, lacking: Mapping[str, Sequence[str]], damaged: Sequence[str]
) -> list[str]:
    """Return the notes on what the cells show, and on runs without it."""
    notes = [f"{spec.described_metrics}, {spec.reduce}: {reduction.note}"]
    notes += [f"finished runs without {metric}, left out: of {', '.join(rows)}" for metric, rows in lacking.items()]
    return [*notes, *damaged]


def significance_notes(main: str | None, reduction: Reduction) -> list[str]:
    """Return the notes on the significance tests."""
    if main is None:
        return []
    notes = [
        f"{LEGEND} against {main} in the same column: Welch's t-test, two-sided, on the n {reduction.sample} of "
        "each cell; not corrected for the number of tests; none with fewer than 2 on a side or no spread"
    ]
    if reduction.sample == "folds":
        notes.append("folds share training data, so they are not independent, and p comes out too small")
    return notes


def state_notes(cells: Mapping[Place, Cell], source: str) -> list[str]:
    """Return the notes on marks of reported figures, stale runs and the source of the runs."""
    notes = []
    if any(cell.reported and cell.reported.get("mark") == "recalled" for cell in cells.values()):
        notes.append("? : this reported figure could not be checked against the paper")
    if any(cell.states["stale"] for cell in cells.values()):
        notes.append("stale: made by other code of the method than is here now; rerun=true runs it again")
    if source != OUTPUTS:
        notes.append(f"runs read from {source}, where stale runs cannot be told from others")
    return notes
