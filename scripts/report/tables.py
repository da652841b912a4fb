"""The tables that can be shown: those of experiments of which at least one run is finished."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from runner.config.compose import compose
from runner.config.grids import expand_sweep
from runner.config.help import choices
from runner.errors import UserError
from runner.results.build_table import build_table
from runner.results.table_model import Table
from scripts.report.collect import Record

GROUPS = ("method", "dataset", "model")


@dataclass
class Shown:
    """table: None where it cannot be built, then `error` says why."""

    experiment: str
    table: Table | None = None
    error: str = ""


def tables(outputs: Path, records: list[Record], experiments: Iterable[str] | None = None) -> Iterator[Shown]:
    """The tables of the experiments, of all by default, that have a finished run.

    To find its runs each is composed, a few hundredths of a second a run: an experiment is passed over where none of
    its runs has a method, dataset and model of which one is finished.
    """
    place = "paths.outputs='" + str(outputs).replace("'", "\\'") + "'"
    finished = {record.group for record in records if record.is_finished}
    for experiment in experiments or choices("experiment"):
        overrides = [f"experiment={experiment}", place]
        started = time.perf_counter()
        try:
            cfg = compose(overrides)
            if "table" not in cfg or not _may_be_finished(expand_sweep(cfg, overrides), finished):
                continue
            table = build_table(overrides)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            yield Shown(experiment, error=str(error))
            continue
        print(f"{experiment} in {time.perf_counter() - started:.1f} s", file=sys.stderr)
        if any(cell.outcomes for cell in table.cells.values()):
            yield Shown(experiment, table)


def _may_be_finished(runs: Iterable[list[str]], finished: set[tuple[str, str, str]]) -> bool:
    """Is there a finished run with the choices that a run of the sweep names?"""
    named = {tuple(dict(o.partition("=")[::2] for o in run).get(group) for group in GROUPS) for run in runs}
    return any(
        all(choice in (None, other) for choice, other in zip(run, group, strict=True))
        for run in named
        for group in finished
    )
