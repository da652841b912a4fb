"""`python -m runner.table experiment=E [options] [overrides]`: a paper's table, measured beside reported.

The experiment file holds the sweep (`hydra.sweeper.params`) and a node `table`. Overrides are those of the runner, also
of that node: dataset=D shows a part, table.metric=test/seconds fills the cells with another metric. Several metrics,
as in table.metric=[test/acc,test/loss], have a column each. Options:

format: text, markdown, latex or csv; png draws the table as a bar chart, below <outputs>/figures/<experiment>/.
significance: Welch's t-test of every row against the named one (its label, or the value of its config key), column by
    column, and how many values each cell has; `true` takes the row that `table.main` names.
source: where the runs are read: `outputs`, or `wandb:<entity>/<project>`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runner.config.compose import compose_without_sweep
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.execution.loggers import log_figure
from runner.files import write_whole
from runner.results.build_table import build_table
from runner.results.plotting import draw_table, figure_path, save
from runner.results.renderers import FORMATS, render
from runner.results.sources import OUTPUTS
from runner.results.table_model import Table, as_names

OPTIONS = {"format": "text", "significance": "", "source": OUTPUTS}


@exit_on_broken_pipe()
@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Exit codes: 0; 2 for a mistake of the user's."""
    print_table(sys.argv[1:] if arguments is None else arguments)


def print_table(arguments: list[str]) -> None:
    """Prints the table that the arguments name, or draws it."""
    given = {key: value for key, _, value in (a.partition("=") for a in arguments) if key in OPTIONS}
    overrides = [a for a in arguments if a.partition("=")[0] not in OPTIONS]
    form, significance, source = (OPTIONS | given).values()
    if form not in (*FORMATS, "png"):
        raise UserError(f"format={form} is unknown; choose from {', '.join((*FORMATS, 'png'))}")
    if not any(o.startswith("experiment=") for o in overrides):
        raise UserError("name the table: python -m runner.table experiment=<paper>/<table> [format=...]")
    table = build_table(overrides, significance, source)
    print(render(table, "text" if form == "png" else form))
    if form == "png":
        draw_chart(table, overrides)


def draw_chart(table: Table, overrides: list[str]) -> Path:
    """Draws the table as a bar chart, and writes its cells beside it as CSV. Raises UserError where no run is there."""
    cfg = compose_without_sweep(overrides)
    if not any(cell.n for cell in table.cells.values()):
        raise UserError(
            f"\nThere is nothing to draw: no run of it is finished.\n"
            f"This makes them: python -m runner -m {' '.join(o for o in overrides if not o.startswith('table.'))}"
        )
    experiment = str(cfg.hydra.runtime.choices.experiment)
    shown = "+".join(as_names(cfg.table.metric))
    path = figure_path(cfg.paths.outputs, experiment, f"table-{shown}", overrides)
    write_whole(path.with_suffix(".csv"), render(table, "csv") + "\n")
    save(draw_table(table), path)
    print(f"\n{path}\n{path.with_suffix('.csv')}")
    log_figure(cfg.logger, path, experiment, table=shown, source=table.source)
    return path


if __name__ == "__main__":
    main()
