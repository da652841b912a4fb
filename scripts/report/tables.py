"""Tables of the report: those of the experiments that finished runs were executed for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from runner.config.compose import compose
from runner.config.help import choices
from runner.errors import UserError
from runner.results.build_table import build_table
from runner.results.table_model import Table
from scripts.report.collect import Record


@dataclass
class ShownTable:
    """Table of an experiment.

    Args:
        experiment: name of the experiment.
        table: the table, or None if it cannot be built.
        error: why it cannot be built, or empty.
    """

    experiment: str
    table: Table | None = None
    error: str = ""


def tables(outputs: Path, records: Iterable[Record]) -> Iterator[ShownTable]:
    """Yield the tables of the experiments that finished runs were executed for, in alphabetical order.

    Composing a config takes a few tenths of a second, so no other experiment is composed.

    Args:
        outputs: folder of the runs.
        records: records of the runs.
    """
    place = "paths.outputs='" + str(outputs).replace("'", "\\'") + "'"
    known = choices("experiment")
    for experiment in sorted({r.experiment for r in records if r.is_finished and r.experiment in known}):
        started = time.perf_counter()
        shown = read_table(experiment, [f"experiment={experiment}", place])
        if shown:
            print(f"{experiment} in {time.perf_counter() - started:.1f} s", file=sys.stderr)
            yield shown


def read_table(experiment: str, overrides: list[str]) -> ShownTable | None:
    """Return the table of an experiment; None if it has none, or if none of its runs is finished."""
    try:
        if "table" not in compose(overrides):
            return None
        table = build_table(overrides)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return ShownTable(experiment, error=str(error))
    return ShownTable(experiment, table) if any(cell.used for cell in table.cells.values()) else None
