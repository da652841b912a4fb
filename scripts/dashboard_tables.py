"""Tables that a dashboard shows, and their runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner.config.address import IDENTITY_KEYS, Run
from runner.config.compose import compose_without_sweep, parse
from runner.config.help import choices, experiments_with
from runner.errors import UserError
from runner.results.build_table import build_table, label_of, table_spec
from runner.results.experiment_runs import runs_of
from runner.results.reductions import REDUCTIONS
from runner.results.renderers import render
from runner.results.sources import read_rows
from runner.results.table_model import Table, TableSpec
from runner.table import chart_path

PANELS_NOTE = "\n- W&B's bars show the mean of the last logged values over runs, not scaled"


@dataclass(frozen=True)
class Section:
    """Section of a dashboard: one table.

    Args:
        experiment: name of the experiment.
        overrides: overrides that narrow the table.
        cfg: config of the experiment.
        spec: specification of the table.
        runs: runs of the table.
        table: the table, measured beside reported.
    """

    experiment: str
    overrides: list[str]
    cfg: DictConfig
    spec: TableSpec
    runs: list[Run]
    table: Table

    @classmethod
    def read(cls, experiment: str, overrides: list[str]) -> Section:
        """Return the section of an experiment. Raises UserError if its table cannot be built."""
        everything = [f"experiment={experiment}", *overrides]
        cfg, spec = compose_without_sweep(everything), table_spec(everything)
        return cls(experiment, overrides, cfg, spec, runs_of(everything), build_table(everything))

    @property
    def text(self) -> str:
        """The table in Markdown, with a note on the panels."""
        return render(self.table, "markdown") + (PANELS_NOTE if self.has_bars else "")

    @property
    def has_bars(self) -> bool:
        """True if means over runs that W&B computes are those of the table, but for their scale."""
        return not REDUCTIONS[self.spec.reduce].per_epoch

    @cached_property
    def chart(self) -> Path | None:
        """Path of the table's bar chart, with the table's own reduction; None if nothing is measured."""
        return chart_path(self.cfg, self.spec, self.everything) if self.table.is_measured else None

    @property
    def everything(self) -> list[str]:
        """Overrides that make the table, the experiment among them."""
        return [f"experiment={self.experiment}", *self.overrides]

    @cached_property
    def name(self) -> str:
        """Experiment and narrowing overrides, without `=` and `+`, which W&B refuses in the name of a workspace."""
        narrowing = [o for o in self.overrides if key_of(o).partition(".")[0] in IDENTITY_KEYS]
        return re.sub(r"[^\w ./,:()-]", " ", " ".join([self.experiment, *narrowing]))

    @property
    def narrowed(self) -> list[str]:
        """Keys that the overrides set, of those that decide a run's result and have one value."""
        keys = [key for key in map(key_of, self.overrides) if key.partition(".")[0] in IDENTITY_KEYS]
        return [key for key in keys if isinstance(self.runs[0].choice(key), str | int | float)]

    @cached_property
    def by_column(self) -> dict[str, list[Run]]:
        """Runs of each column, by its label."""
        columns: dict[str, list[Run]] = {}
        for run in self.runs:
            label = label_of(run, self.spec.columns, self.spec) if self.spec.columns else "all"
            columns.setdefault(label, []).append(run)
        return columns

    @cached_property
    def curves(self) -> dict[str, list[str]]:
        """Metrics of all splits by quantity (`acc`, `loss`): that of the table first, then the loss.

        They are those of the first run of the sweep with a readable metrics.csv. If there is none, and the runs are
        trained, they are the table's metric and the loss, of the training and the validation split.
        """
        rows = next(filter(None, (read_rows(run.folder)[0] for run in self.runs)), [])
        own = self.spec.metric[0].partition("/")[2]
        if not rows and any("fit" in run.cfg.stages for run in self.runs):
            return {name: [f"train/{name}", f"val/{name}"] for name in (own, "loss")}
        quantities: dict[str, list[str]] = {}
        for metric in sorted({name for row in rows for name in row if "/" in name}):
            quantities.setdefault(metric.partition("/")[2], []).append(metric)
        return dict(sorted(quantities.items(), key=lambda item: (item[0] != own, item[0] != "loss")))


def key_of(override: str) -> str:
    """Return the key or group of an override."""
    return str(parse(override).key_or_group)


def searchpath_folders(overrides: Sequence[str]) -> list[Path]:
    """Return the folders of the override `hydra.searchpath`."""
    values = [parse(o).value() for o in overrides if key_of(o) == "hydra.searchpath"]
    folders = [folder for value in values for folder in (value if isinstance(value, list) else [value])]
    return [Path(str(folder).removeprefix("file://")) for folder in folders]


def known_tables(overrides: Sequence[str]) -> list[str]:
    """Return the experiments with a table, in conf and in the folders of `hydra.searchpath`."""
    tables = experiments_with("table")
    for folder in searchpath_folders(overrides):
        files = {name: folder / "experiment" / f"{name}.yaml" for name in choices("experiment", folder)}
        tables += [name for name, file in files.items() if name not in tables and "table" in OmegaConf.load(file)]
    return tables


def choose_tables(value: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the tables that `experiment=` names.

    Args:
        value: `<paper>/<table>`, a paper, or several of them separated by commas.
        overrides: overrides of the runner, of which `hydra.searchpath` adds experiments.

    Raises:
        UserError: a name is no table, or there is none.
    """
    known, tables = known_tables(overrides), []
    for name in filter(None, value.split(",")):
        of_paper = [experiment for experiment in known if experiment.startswith(f"{name}/")]
        if name not in known and not of_paper:
            raise UserError(f"experiment={name} has no table; choose from {', '.join(known)}")
        tables += [name] if name in known else of_paper
    if not tables:
        raise UserError(
            f"name the tables: python -m scripts.dashboard experiment=<one or several of {', '.join(known)}>"
        )
    return tables
