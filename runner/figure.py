"""`python -m runner.figure experiment=E [overrides]`: a figure of a paper, drawn from the runs of its sweep.

The experiment file holds the sweep and a node `figure`, whose keys are those of `FigureSpec` in
runner/results/figure_model.py. Overrides are those of the runner: dataset=D draws a part, paths.outputs=DIR says where
the runs are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from runner.config.address import Run, resolved
from runner.config.compose import compose_without_sweep, parse
from runner.config.grids import expand_sweep
from runner.config.help import experiments_with
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.execution.loggers import log_figure
from runner.files import write_whole
from runner.results.build_figure import collect, figure_csv, summary
from runner.results.figure_model import FigureSpec
from runner.results.plotting import draw, figure_path, save


@exit_on_broken_pipe()
@cli_errors()
def main() -> None:
    """Exit codes: 0, 2 for a mistake of the user's or where no run is there."""
    draw_figure(sys.argv[1:])


def draw_figure(overrides: list[str]) -> Path:
    """Draws the figure of the experiment that the overrides name; prints its runs; returns the PNG's path."""
    experiment = next((str(o.value()) for o in map(parse, overrides) if o.key_or_group == "experiment"), None)
    if experiment is None:
        raise UserError(f"Which figure? python -m runner.figure experiment=<one of {with_figure()}>")
    cfg = compose_without_sweep(overrides)
    if not cfg.get("figure"):
        raise UserError(f"experiment={experiment} has no figure; these have one: {with_figure()}")
    spec = FigureSpec.read(experiment, resolved(cfg.figure))
    lines = collect(spec, [Run.compose(run) for run in expand_sweep(cfg, overrides)])
    print(summary(spec, lines))
    if not any(line.curves for line in lines):
        raise UserError(
            f"No run of it is finished below {Path(cfg.paths.outputs).absolute()}.\n"
            f"This makes them: python -m runner -m {' '.join(overrides)}"
        )
    path = figure_path(cfg.paths.outputs, experiment, spec.metric, overrides)
    write_whole(path.with_suffix(".csv"), figure_csv(spec, lines))
    save(draw(spec, lines), path)
    print(f"\n{path}\n{path.with_suffix('.csv')}")
    log_figure(cfg.logger, path, experiment, figure=spec.metric, source=spec.source)
    return path


def with_figure() -> str:
    return ", ".join(experiments_with("figure"))


if __name__ == "__main__":
    main()
