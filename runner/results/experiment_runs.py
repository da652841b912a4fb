"""Runs of an experiment's sweep."""

from __future__ import annotations

from runner.config.address import Run
from runner.config.compose import compose_without_sweep
from runner.config.grids import expand_sweep


def runs_of(overrides: list[str]) -> list[Run]:
    """Return the runs of the sweep that the overrides name, in the order of the sweep.

    Args:
        overrides: overrides of the runner, `experiment=...` among them; they may sweep.
    """
    return [Run.compose(run) for run in expand_sweep(compose_without_sweep(overrides), overrides)]
