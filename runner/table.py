"""`python -m runner.table experiment=E [options] [overrides]`: a paper's table, measured beside reported.

The experiment file holds the sweep and a node `table`, whose keys are those of `TableSpec` in
runner/results/table_model.py. Overrides are those of the runner: dataset=D shows a part of the table,
table.metric=test/seconds fills the cells with another metric, table.metric=[test/acc,test/loss] has a column for each
metric. Options:

format: text, markdown, latex, csv, json or html; png draws the table as a bar chart, below
    <outputs>/figures/<experiment>/.
out: file for the rendered table; without it the table is printed.
significance: Welch's t-test of each row against this one (its label, or the value of its config key) within each
    column, with the number of values of each cell; `true` takes the row that `table.main` names.
numerics: `same` leaves out the runs whose numerics (device, threads, precision, libraries) differ from the most
    frequent ones; `any` keeps all, and notes differences.
source: where the runs are read: `outputs`, or `wandb:<entity>/<project>`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner.config.compose import compose_without_sweep, with_formats
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.execution.loggers import log_figure
from runner.files import write_whole
from runner.results.arguments import check_option, split_arguments
from runner.results.build_table import build_table, table_spec
from runner.results.renderers import FORMATS, render
from runner.results.sources import OUTPUTS
from runner.results.table_model import Table, TableSpec

OPTIONS = {"format": "text", "out": "", "significance": "", "numerics": "any", "source": OUTPUTS}


@exit_on_broken_pipe()
@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Print a table. Exit codes: 0; 2 for a mistake of the user."""
    print_table(with_formats(sys.argv[1:] if arguments is None else arguments))


def print_table(arguments: list[str]) -> None:
    """Print the table that the arguments name, write it to a file, or draw it."""
    options, overrides = split_arguments(arguments, OPTIONS)
    check_option("format", options["format"], (*FORMATS, "png"))
    check_option("numerics", options["numerics"], ("any", "same"))
    if not any(o.startswith("experiment=") for o in overrides):
        raise UserError("name the table: python -m runner.table experiment=<paper>/<table> [format=...]")
    is_chart = options["format"] == "png"
    if is_chart and options["out"]:
        raise UserError("format=png chooses its own file; leave out= out")
    same_numerics = options["numerics"] == "same"
    table = build_table(overrides, options["significance"], options["source"], same_numerics)
    table.command = reproducing_command(arguments)
    rendered = render(table, "text" if is_chart else options["format"])
    if options["out"]:
        write_table(Path(options["out"]), rendered)
    else:
        print(rendered)
    if is_chart:
        print("", *draw_chart(table, overrides), sep="\n")


def reproducing_command(arguments: list[str]) -> str:
    """Return the command that prints the same table elsewhere: without its format, files and folders."""
    local = ("format=", "out=", "paths.", "logger")
    return shlex.join(["python", "-m", "runner.table", *(a for a in arguments if not a.startswith(local))])


def write_table(path: Path, rendered: str) -> None:
    """Write a rendered table to a file, and print the file's path. Raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, rendered + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}\nName another file with out=<file>") from error
    print(path)


def chart_path(cfg: DictConfig, spec: TableSpec, overrides: list[str]) -> Path:
    """Return the path of a table's bar chart, a PNG file, and make its folder.

    Args:
        cfg: config of the experiment, as the overrides compose it.
        spec: specification of the table.
        overrides: overrides that make the table.
    """
    from runner.results.figure_files import figure_path

    experiment = str(cfg.hydra.runtime.choices.experiment)
    return figure_path(cfg.paths.outputs, experiment, f"table-{'+'.join(spec.metric)}", overrides)


def draw_chart(table: Table, overrides: list[str], tracker: Mapping[str, Any] | None = None) -> list[Path]:
    """Draw a table as a bar chart, write its cells beside it as CSV, and log the chart to W&B.

    Args:
        table: table to draw.
        overrides: overrides that make the table.
        tracker: node `logger` of a config; None: that of the overrides.

    Returns:
        Paths of the written files.

    Raises:
        UserError: no run of the table is finished.
    """
    from runner.results.draw_table import draw_table
    from runner.results.figure_files import save_figure

    cfg = compose_without_sweep(overrides)
    if not table.is_measured:
        raise UserError(
            f"\nThere is nothing to draw: no run of the table is finished.\n"
            f"This runs them: python -m runner -m {' '.join(o for o in overrides if not o.startswith('table.'))}"
        )
    spec = table_spec(overrides)
    path = chart_path(cfg, spec, overrides)
    write_whole(path.with_suffix(".csv"), render(table, "csv") + "\n")
    files = save_figure(draw_table(table), path, cfg.figures.format)
    experiment, node = str(cfg.hydra.runtime.choices.experiment), cfg.logger if tracker is None else tracker
    log_figure(node, path, experiment, table="+".join(spec.metric), source=table.source)
    return [*files, path.with_suffix(".csv")]


if __name__ == "__main__":
    main()
