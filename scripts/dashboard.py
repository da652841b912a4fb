"""A W&B workspace for each table, and one W&B report of them all, from the tables' experiment files.

    python -m scripts.dashboard experiment=graphnorm/table1 [overrides] [entity=E] [project=P] [dry=true]
    python -m scripts.dashboard experiment=graphnorm/table1,esparse/stories
    python -m scripts.dashboard experiment=esparse    # every table of the paper

A workspace has one filter for all its panels, so every table has a workspace of its own: the runs of its sweep alone,
grouped by what makes the table's rows. The report has a section per table, and in it a grid per column. Overrides are
those of the runner, and narrow both. What was sent, and its address, is kept in outputs/dashboards/<experiment>.json:
sent again, it is updated in place. dry=true writes that file and sends nothing; it needs neither key nor network.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from omegaconf import DictConfig
from wandb_workspaces.expr import And, FilterExpr, Or

from runner.config.address import IDENTITY_KEYS, Run, resolved
from runner.config.compose import compose_without_sweep, parse
from runner.config.grids import expand_sweep
from runner.config.help import experiments_with
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.execution.loggers import wandb_mode, wandb_settings
from runner.execution.record import read_metrics, read_result
from runner.files import read_json, write_json
from runner.results.build_table import build_table, label_of
from runner.results.renderers import render
from runner.results.table_model import as_names
from scripts.wandb_server import check_server

MOST = 100  # bars, lines, or groups that a panel draws
OWN = ("entity", "project", "dry")
PANELS = "\n- the panels show each run's last values as they were logged, not scaled and not reduced as above"
WITHOUT = "\nWith dry=true the specification of the dashboard is written to a file instead."


@dataclass(frozen=True)
class Section:
    """One table of a dashboard. overrides: those that narrow it; text: measured beside reported, in Markdown."""

    experiment: str
    overrides: list[str]
    cfg: DictConfig
    runs: list[Run]
    text: str

    @classmethod
    def read(cls, experiment: str, overrides: list[str]) -> Section:
        """Raises UserError where the experiment's table cannot be made."""
        everything = [f"experiment={experiment}", *overrides]
        cfg = compose_without_sweep(everything)
        runs = [Run.compose(run) for run in expand_sweep(cfg, everything)]
        text = render(build_table(everything), "markdown") + PANELS
        return cls(experiment, overrides, cfg, runs, text)

    @cached_property
    def name(self) -> str:
        """The experiment and what narrows it, without the `=` and `+` that W&B takes in no workspace's name."""
        narrowing = [o for o in self.overrides if key_of(o).partition(".")[0] in IDENTITY_KEYS]
        return re.sub(r"[^\w ./,:()-]", " ", " ".join([self.experiment, *narrowing]))

    @cached_property
    def node(self) -> dict[str, Any]:
        return resolved(self.cfg.table)

    @property
    def rows(self) -> tuple[str, ...]:
        return as_names(self.node["rows"])

    @property
    def columns(self) -> tuple[str, ...]:
        return as_names(self.node.get("columns") or [])

    @property
    def metrics(self) -> tuple[str, ...]:
        return as_names(self.node["metric"])

    @property
    def narrowed(self) -> list[str]:
        """The keys that the overrides set, of those that decide a run's result and have one value."""
        keys = [key for key in map(key_of, self.overrides) if key.partition(".")[0] in IDENTITY_KEYS]
        return [key for key in keys if isinstance(self.runs[0].choice(key), str | int | float)]

    @cached_property
    def by_column(self) -> dict[str, list[Run]]:
        """The runs of each column, by its label."""
        found: dict[str, list[Run]] = {}
        labels = {str(key): value for key, value in self.node.get("labels", {}).items()}
        for run in self.runs:
            label = label_of(run, self.columns, labels) if self.columns else "all"
            found.setdefault(label, []).append(run)
        return found

    @cached_property
    def curves(self) -> dict[str, list[str]]:
        """What is measured each epoch (`acc`, `loss`) -> its metrics of all splits; the table's own first, then loss.

        From the first run of the sweep that has left metrics.csv. Where none has, and the runs are trained: the table's
        metric and the loss, of the training and the validation split.
        """
        rows = next(filter(None, (read_metrics(run.folder) for run in self.runs)), [])
        own = self.metrics[0].partition("/")[2]
        if not rows and any("fit" in run.cfg.stages for run in self.runs):
            return {name: [f"train/{name}", f"val/{name}"] for name in (own, "loss")}
        found: dict[str, list[str]] = {}
        for metric in sorted({name for row in rows for name in row if "/" in name}):
            found.setdefault(metric.partition("/")[2], []).append(metric)
        return dict(sorted(found.items(), key=lambda item: (item[0] != own, item[0] != "loss")))


def key_of(override: str) -> str:
    return str(parse(override).key_or_group)


def config_key(run: Run, key: str) -> str:
    """Where `choice_of` stands in the config that W&B has of a run."""
    return f"choices.{key}" if run.choices.get(key) else key


def stored(key: str) -> str:
    """The key of a config as W&B stores it: `value` follows the first part."""
    first, *rest = key.split(".")
    return ".".join([first, "value", *rest])


def only(section: Section, runs: list[Run], keys: Iterable[str]) -> And | Or:
    """A filter for these runs of a section, all those that have their values of `keys`.

    Runs are in the group of the experiment that made them first; those that another one had made are told by their id.
    """
    conditions: list[FilterExpr] = [ws.Metric("Group") == section.experiment]
    for key in dict.fromkeys(keys):
        values = list(dict.fromkeys(run.choice(key) for run in runs))
        conditions.append(ws.Config(stored(config_key(runs[0], key))).isin(values))
    results = ((run, read_result(run.folder)) for run in runs)
    others = [run.id for run, result in results if result and result["choices"]["experiment"] != section.experiment]
    return Or(And(*conditions), ws.Metric("ID").isin(others)) if others else And(*conditions)


def bars(section: Section) -> list[wr.BarPlot]:
    """The table's metrics, a plot for each and each key that makes rows."""
    run = section.runs[0]
    return [
        wr.BarPlot(
            title=f"{metric} by {key}",
            metrics=[metric],
            groupby=wr.Config(config_key(run, key)),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=MOST,
            max_bars_to_show=MOST,
        )
        for metric in section.metrics
        for key in section.rows
    ]


def lines(section: Section) -> list[wr.LinePlot]:
    """The learning curves, a plot for each quantity, grouped as the runs are."""
    return [
        wr.LinePlot(
            title=name,
            x="epoch",
            y=metrics,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=MOST,
        )
        for name, metrics in section.curves.items()
    ]


def workspace(section: Section, entity: str, project: str) -> ws.Workspace:
    """The table as text, its metric, the learning curves; the runs' list shows the metric and what tells runs apart."""
    keys = [config_key(section.runs[0], key) for key in (*section.rows, *section.columns)]
    columns = [f"config:{stored(key)}" for key in keys]
    mean = "" if len(section.by_column) == 1 else f" (mean over {', '.join(section.columns)})"
    parts: dict[str, list[Any]] = {
        section.node.get("title", section.name): [wr.MarkdownPanel(markdown=section.text)],
        ", ".join(section.metrics) + mean: bars(section),
        "learning curves" + mean: lines(section),
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=section.name,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in parts.items() if panels],
        settings=ws.WorkspaceSettings(max_runs=MOST),
        runset_settings=ws.RunsetSettings(
            filters=only(section, section.runs, section.narrowed),
            groupby=[ws.Config(config_key(section.runs[0], key)) for key in section.rows],
            pinned_columns=[*(f"summary:{metric}" for metric in section.metrics), *columns],
        ),
    )


def blocks(section: Section, where: dict[str, str]) -> list[Any]:
    """A table's part of the report. where: entity and project of its runs, which W&B looks up; empty: the report's."""
    found: list[Any] = [wr.H1(section.name), wr.MarkdownBlock(section.text)]
    for label, runs in section.by_column.items():
        runset = wr.Runset(
            **where,
            name=label,
            filters=only(section, runs, [*section.columns, *section.narrowed]),
            groupby=[f"config.{config_key(runs[0], key)}" for key in section.rows],
        )
        found += [wr.H2(label), wr.PanelGrid(runsets=[runset], panels=[*bars(section), *lines(section)])]
    return found


def report(title: str, sections: list[Section], entity: str, project: str, where: dict[str, str]) -> wr.Report:
    """title: stands in its address, where slashes would be folders."""
    contents = [wr.TableOfContents()] if len(sections) > 1 else []
    everything = [*contents, *(block for section in sections for block in blocks(section, where))]
    return wr.Report(
        entity=entity, project=project, title=title.replace("/", "-")[:128], blocks=everything, width="fluid"
    )


def chosen(value: str) -> list[str]:
    """`<paper>/<table>`, several with commas between, or a paper. Raises UserError where one of them is no table."""
    known, found = experiments_with("table"), []
    for name in filter(None, value.split(",")):
        of_paper = [experiment for experiment in known if experiment.startswith(f"{name}/")]
        if name not in known and not of_paper:
            raise UserError(f"experiment={name} is no table; choose from {', '.join(known)}")
        found += [name] if name in known else of_paper
    if not found:
        raise UserError(f"Which tables? python -m scripts.dashboard experiment=<one or several of {', '.join(known)}>")
    return found


def specification(title: str, sections: list[Section], entity: str, project: str) -> dict[str, Any]:
    """What W&B stores of the workspaces, by their names, and of the report; made without network."""
    models = {section.name: workspace(section, entity, project)._to_model() for section in sections}
    whole = report(title, sections, entity, project, {})._to_model()
    return {
        "workspaces": {
            name: model.model_dump(mode="json", by_alias=True, exclude_none=True) for name, model in models.items()
        },
        "report": whole.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def send(title: str, sections: list[Section], entity: str, project: str, before: dict[str, str]) -> dict[str, str]:
    """Saves workspaces and report in the places of those sent before, if they are still there; address of each by name.

    Raises UserError where there is no key, no server or no such project, or where W&B refuses.
    """
    check_server(WITHOUT)
    try:
        entity = entity or wandb.Api().default_entity
        there = f"/{entity}/{project}/"
        here = {name: url for name, url in before.items() if f"{urlsplit(url).path}/".startswith(there)}
        whole = report(title, sections, entity, project, {"entity": entity, "project": project})
        addresses = {"report": save(whole, here.get("report"), ("title", "blocks", "width"))}
        for section in sections:
            parts = ("sections", "settings", "runset_settings")
            addresses[section.name] = save(workspace(section, entity, project), here.get(section.name), parts)
    except (wandb.Error, ValueError) as error:
        raise UserError(f"W&B refused the dashboard: {error}{WITHOUT}") from error
    return addresses


def save(new: Any, address: str | None, parts: tuple[str, ...]) -> str:
    """Saves a report or workspace, its parts put into the one at `address` if that is still there; its address."""
    if address:
        try:
            old = type(new).from_url(address)
        except Exception:  # whatever W&B makes of one that was deleted
            old = None
        if old:
            for part in parts:
                setattr(old, part, getattr(new, part))
            new = old
    new.save()
    return str(new.url)


def shown(address: str) -> str:
    """wandb-workspaces leaves out the folder that the app may lie in on its server."""
    return str(wandb_settings().app_url).rstrip("/") + urlsplit(address)._replace(scheme="", netloc="").geturl()


def make(arguments: list[str]) -> list[str]:
    """Writes the dashboard's file and, unless dry=true, sends it; what to tell the user.

    Raises UserError for a mistake of the user's.
    """
    given = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in ("experiment", *OWN)}
    if given.get("dry", "false") not in ("true", "false"):
        raise UserError(f"dry={given['dry']} is neither true nor false")
    overrides = [a for a in arguments if a.partition("=")[0] not in ("experiment", *OWN)]
    experiment = given.get("experiment", "")
    sections = [Section.read(name, overrides) for name in chosen(experiment)]
    cfg = sections[0].cfg
    project = given.get("project") or cfg.logger.get("project")
    if not project:
        raise UserError("Which W&B project? project=<name>")
    entity = given.get("entity") or cfg.logger.get("entity") or ""
    title = sections[0].name if len(sections) == 1 else experiment
    name = title if len(sections) == 1 else title.replace("/", "-")
    path = Path(cfg.paths.outputs).absolute() / "dashboards" / f"{name.replace(' ', '_')}.json"
    addresses = (read_json(path) or {}).get("addresses", {})
    if given.get("dry") != "true":
        addresses = send(title, sections, entity, project, addresses)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, specification(title, sections, entity, project) | {"addresses": addresses})
    return (
        [str(path)] if given.get("dry") == "true" else [*(f"{k}: {shown(v)}" for k, v in addresses.items()), str(path)]
    )


@exit_on_broken_pipe()
@cli_errors()
def main() -> None:
    """Exit codes: 0; 2 for a mistake of the user's, or where nothing could be sent."""
    wandb_mode()  # quietens W&B
    print("\n".join(make(sys.argv[1:])))


if __name__ == "__main__":
    main()
