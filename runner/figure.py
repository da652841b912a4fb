"""`python -m runner.figure experiment=E [overrides]`: a figure of a paper, drawn from the runs of its sweep.

The experiment file holds the sweep and a node `figure`, whose keys are those of `FigureSpec` in
runner/results/figure_model.py. Overrides are those of the runner: dataset=D draws a part of the figure,
paths.outputs=DIR names the folder of the runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runner.config.address import resolved
from runner.config.compose import compose_without_sweep, parse, with_formats
from runner.config.help import experiments_with
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.execution.loggers import log_figure
from runner.files import write_whole
from runner.results.build_figure import collect_lines, figure_csv, summarize_lines
from runner.results.draw_figure import draw_figure
from runner.results.experiment_runs import runs_of
from runner.results.figure_files import figure_path, save_figure
from runner.results.figure_model import FigureSpec


@exit_on_broken_pipe()
@cli_errors()
def main() -> None:
    """Draw a figure. Exit codes: 0; 2 for a mistake of the user, or if no run is finished."""
    make_figure(with_formats(sys.argv[1:]))


def make_figure(overrides: list[str]) -> Path:
    """Draw the figure of the experiment that the overrides name, and print the number of its runs.

    Returns:
        Path of the PNG file.

    Raises:
        UserError: there is no such figure, or none of its runs is finished.
    """
    experiment, spec = read_spec(overrides)
    lines = collect_lines(spec, runs_of(overrides))
    print(summarize_lines(spec, lines))
    cfg = compose_without_sweep(overrides)
    if not any(line.curves for line in lines):
        raise UserError(
            f"No run of the figure is finished below {Path(cfg.paths.outputs).absolute()}.\n"
            f"This runs them: python -m runner -m {' '.join(overrides)}"
        )
    path = figure_path(cfg.paths.outputs, experiment, spec.metric, overrides)
    write_whole(path.with_suffix(".csv"), figure_csv(spec, lines))
    files = save_figure(draw_figure(spec, lines), path, cfg.figures.format)
    print("", *files, path.with_suffix(".csv"), sep="\n")
    log_figure(cfg.logger, path, experiment, figure=spec.metric, source=spec.source)
    return path


def read_spec(overrides: list[str]) -> tuple[str, FigureSpec]:
    """Return the experiment that the overrides name, and its node `figure`. Raises UserError if there is none."""
    experiment = next((str(o.value()) for o in map(parse, overrides) if o.key_or_group == "experiment"), None)
    known = ", ".join(experiments_with("figure"))
    if experiment is None:
        raise UserError(f"name the figure: python -m runner.figure experiment=<one of {known}>")
    cfg = compose_without_sweep(overrides)
    if not cfg.get("figure"):
        raise UserError(f"experiment={experiment} has no figure; these have one: {known}")
    return experiment, FigureSpec.read(experiment, resolved(cfg.figure))


if __name__ == "__main__":
    main()
