"""A W&B workspace for each table, and one W&B report of all tables, from the tables' experiment files.

    python -m scripts.dashboard experiment=graphnorm/table1 [overrides] [entity=E] [project=P] [dry=true]
    python -m scripts.dashboard experiment=graphnorm/table1,esparse/stories
    python -m scripts.dashboard experiment=esparse    # every table of the paper

A workspace has one filter for all its panels, so each table has a workspace of its own: the runs of its sweep, grouped
by the keys of the table's rows. The report has a section for each table, and in it a grid for each column. Both have
the table's own bar chart as a figure, drawn and sent with them. Bars by W&B are means over runs, so a table that is
reduced otherwise, by one epoch for all folds, has none.

Overrides are those of the runner, and narrow both; hydra.searchpath=[DIR] finds experiments in other folders. What was
sent, and its address, is kept in outputs/dashboards/<experiment>.json: sent again, it is updated in place. dry=true
writes that file and sends nothing; it needs neither key nor network.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.expr import And, FilterExpr, Or

from runner.config.address import Run
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.execution.loggers import figure_run_id, wandb_mode, wandb_settings
from runner.execution.record import read_result
from runner.files import read_json, write_json
from runner.results.arguments import check_option, split_arguments
from runner.table import draw_chart
from scripts.dashboard_tables import Section, choose_tables
from scripts.wandb_server import check_server

MAX_RUNS = 100  # bars, lines or groups that a panel draws
OPTIONS = {"experiment": "", "entity": "", "project": "", "dry": "false"}
DRY_HINT = "\nWith dry=true the specification of the dashboard is written to a file instead."


def config_key(run: Run, key: str) -> str:
    """Return the key of a choice or value in the config that W&B has of a run."""
    return f"choices.{key}" if run.choices.get(key) else key


def stored_key(key: str) -> str:
    """Return a config key as W&B stores it: `value` follows the first part."""
    first, *rest = key.split(".")
    return ".".join([first, "value", *rest])


def run_filter(section: Section, runs: list[Run], keys: Iterable[str]) -> And | Or:
    """Return a filter for some runs of a section.

    W&B groups each run by the experiment that ran it first; runs that another experiment ran are matched by id.

    Args:
        section: section of the runs.
        runs: runs to show: all runs of the section that have the same values of `keys`.
        keys: config keys.
    """
    conditions: list[FilterExpr] = [ws.Metric("Group") == section.experiment]
    for key in dict.fromkeys(keys):
        values = list(dict.fromkeys(run.choice(key) for run in runs))
        conditions.append(ws.Config(stored_key(config_key(runs[0], key))).isin(values))
    results = ((run, read_result(run.folder)) for run in runs)
    others = [run.id for run, result in results if result and first_experiment(result) != section.experiment]
    return Or(And(*conditions), ws.Metric("ID").isin(others)) if others else And(*conditions)


def first_experiment(result: dict[str, Any]) -> str | None:
    """Return the experiment that a finished run was executed for."""
    choices = result.get("choices") or {}
    return choices.get("experiment")


def chart_panels(section: Section) -> list[wr.MediaBrowser]:
    """Return a panel with the table's own bar chart, if it has one."""
    if section.chart is None:
        return []
    title = f"{section.name}: {section.spec.reduce}"
    return [wr.MediaBrowser(title=title, media_keys=[f"figures/{section.chart.stem}"], num_columns=1)]


def chart_filter(section: Section) -> list[FilterExpr]:
    """Return a filter for the W&B run of the table's bar chart."""
    return [ws.Metric("ID").isin([figure_run_id(section.experiment, section.chart)] if section.chart else [])]


def bar_plots(section: Section) -> list[wr.BarPlot]:
    """Return a bar plot for each metric of the table and each key of its rows; none where W&B's means are others."""
    if not section.has_bars:
        return []
    run = section.runs[0]
    return [
        wr.BarPlot(
            title=f"{metric} by {key}",
            metrics=[metric],
            groupby=wr.Config(config_key(run, key)),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=MAX_RUNS,
            max_bars_to_show=MAX_RUNS,
        )
        for metric in section.spec.metric
        for key in section.spec.rows
    ]


def curve_plots(section: Section) -> list[wr.LinePlot]:
    """Return a plot of learning curves for each quantity, grouped as the runs are."""
    return [
        wr.LinePlot(
            title=name,
            x="epoch",
            y=[*metrics],
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=MAX_RUNS,
        )
        for name, metrics in section.curves.items()
    ]


def workspace(section: Section, entity: str, project: str) -> ws.Workspace:
    """Return the workspace of a table: its text, its metric, the learning curves.

    The list of runs shows the metric and the keys of rows and columns.
    """
    spec = section.spec
    keys = [config_key(section.runs[0], key) for key in (*spec.rows, *spec.columns)]
    columns = [f"config:{stored_key(key)}" for key in keys]
    mean = "" if len(section.by_column) == 1 else f" (mean over {', '.join(spec.columns)})"
    runs = run_filter(section, section.runs, section.narrowed)
    parts: dict[str, list[Any]] = {
        spec.title or section.name: [wr.MarkdownPanel(markdown=section.text)],
        "table as a chart": chart_panels(section),
        ", ".join(spec.metric) + mean: bar_plots(section),
        "learning curves" + mean: curve_plots(section),
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=section.name,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in parts.items() if panels],
        settings=ws.WorkspaceSettings(max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=Or(runs, *chart_filter(section)) if section.chart else runs,
            groupby=[ws.Config(config_key(section.runs[0], key)) for key in spec.rows],
            pinned_columns=[*(f"summary:{metric}" for metric in spec.metric), *columns],
        ),
    )


def report_blocks(section: Section, project: dict[str, Any]) -> list[Any]:
    """Return the blocks of a table in the report.

    Args:
        section: section of the table.
        project: entity and project of the runs, which W&B looks up; empty for those of the report.
    """
    blocks: list[Any] = [wr.H1(section.name), wr.MarkdownBlock(section.text)]
    if section.chart:
        runset = wr.Runset(**project, name="table as a chart", filters=chart_filter(section))
        blocks.append(wr.PanelGrid(runsets=[runset], panels=[*chart_panels(section)]))
    for label, runs in section.by_column.items():
        runset = wr.Runset(
            **project,
            name=label,
            filters=run_filter(section, runs, [*section.spec.columns, *section.narrowed]),
            groupby=[f"config.{config_key(runs[0], key)}" for key in section.spec.rows],
        )
        panels: list[Any] = [*bar_plots(section), *curve_plots(section)]
        blocks += [wr.H2(label), wr.PanelGrid(runsets=[runset], panels=panels)]
    return blocks


def make_report(
    title: str, sections: list[Section], entity: str, project: str, run_project: dict[str, str]
) -> wr.Report:
    """Return the report of all tables.

    Args:
        title: title, which is part of the address; slashes are replaced.
        sections: sections of the tables.
        entity: entity of the report.
        project: project of the report.
        run_project: entity and project of the runs, or empty.
    """
    contents = [wr.TableOfContents()] if len(sections) > 1 else []
    blocks = [*contents, *(block for section in sections for block in report_blocks(section, run_project))]
    return wr.Report(entity=entity, project=project, title=title.replace("/", "-")[:128], blocks=blocks, width="fluid")


def specification(title: str, sections: list[Section], entity: str, project: str) -> dict[str, Any]:
    """Return what W&B stores of the workspaces, by their names, and of the report. Needs no network."""
    models = {section.name: workspace(section, entity, project)._to_model() for section in sections}
    whole = make_report(title, sections, entity, project, {})._to_model()
    return {
        "workspaces": {
            name: model.model_dump(mode="json", by_alias=True, exclude_none=True) for name, model in models.items()
        },
        "report": whole.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def send(title: str, sections: list[Section], entity: str, project: str, before: dict[str, str]) -> dict[str, str]:
    """Save workspaces and report, in place of those sent before if they still exist.

    Args:
        title: title of the report.
        sections: sections of the tables.
        entity: entity, or empty for the default one.
        project: project.
        before: addresses of what was sent before, by name.

    Returns:
        Addresses by name.

    Raises:
        UserError: there is no key, no server or no such project, or W&B refuses.
    """
    check_server(DRY_HINT)
    try:
        entity = entity or str(wandb.Api().default_entity)
        prefix = f"/{entity}/{project}/"
        old = {name: url for name, url in before.items() if f"{urlsplit(url).path}/".startswith(prefix)}
        whole = make_report(title, sections, entity, project, {"entity": entity, "project": project})
        addresses = {"report": save(whole, old.get("report"), ("title", "blocks", "width"))}
        for section in sections:
            if section.chart:
                tracker = {"wandb": {"project": project, "entity": entity}}
                draw_chart(section.table, section.everything, tracker)
            parts = ("sections", "settings", "runset_settings")
            addresses[section.name] = save(workspace(section, entity, project), old.get(section.name), parts)
    except (wandb.Error, ValueError) as error:
        raise UserError(f"W&B refused the dashboard: {error}{DRY_HINT}") from error
    return addresses


def save(new: Any, address: str | None, parts: tuple[str, ...]) -> str:
    """Save a report or workspace.

    Args:
        new: report or workspace.
        address: address of the one to update, if it still exists; or None.
        parts: attributes that are updated.

    Returns:
        Address.
    """
    if address:
        try:
            old = type(new).from_url(address)
        except Exception:  # W&B raises various errors for one that was deleted
            old = None
        if old:
            for part in parts:
                setattr(old, part, getattr(new, part))
            new = old
    new.save()
    return str(new.url)


def app_address(address: str) -> str:
    """Return an address below the app's own; wandb-workspaces leaves out the app's folder on its server."""
    return str(wandb_settings().app_url).rstrip("/") + urlsplit(address)._replace(scheme="", netloc="").geturl()


def make_dashboard(arguments: list[str]) -> list[str]:
    """Write the file of a dashboard and, unless dry=true, send it.

    Returns:
        Lines for the user: addresses, and the path of the file.

    Raises:
        UserError: an argument is wrong, or nothing could be sent.
    """
    options, overrides = split_arguments(arguments, OPTIONS)
    check_option("dry", options["dry"], ("true", "false"))
    sections = [Section.read(name, overrides) for name in choose_tables(options["experiment"], overrides)]
    cfg = sections[0].cfg
    project = options["project"] or (cfg.logger.get("wandb") or {}).get("project")
    if not project:
        raise UserError("name the W&B project: project=<name>")
    entity = options["entity"] or (cfg.logger.get("wandb") or {}).get("entity") or ""
    title = sections[0].name if len(sections) == 1 else options["experiment"]
    name = title if len(sections) == 1 else title.replace("/", "-")
    path = Path(cfg.paths.outputs).absolute() / "dashboards" / f"{name.replace(' ', '_')}.json"
    addresses = (read_json(path) or {}).get("addresses", {})
    lines = [str(path)]
    if options["dry"] == "false":
        addresses = send(title, sections, entity, project, addresses)
        lines = [*(f"{name}: {app_address(address)}" for name, address in addresses.items()), str(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, specification(title, sections, entity, project) | {"addresses": addresses})
    return lines


@exit_on_broken_pipe()
@cli_errors()
def main() -> None:
    """Make a dashboard. Exit codes: 0; 2 for a mistake of the user, or if nothing could be sent."""
    wandb_mode()  # silences W&B
    print("\n".join(make_dashboard(sys.argv[1:])))


if __name__ == "__main__":
    main()
