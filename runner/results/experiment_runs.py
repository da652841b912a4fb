"""Runs of an experiment's sweep."""

from __future__ import annotations

from runner.config.address import Run
from runner.config.compose import compose_without_sweep
from runner.config.grids import expand_sweep


def runs_of(overrides: list[str]) -> list[Run]:
    """Return the different runs of the sweep that the overrides name, in the order of the sweep.

    Several grids of a sweep may contain the same run, which counts once.

    Args:
        overrides: overrides of the runner, `experiment=...` among them; they may sweep.
    """
    runs = map(Run.compose, expand_sweep(compose_without_sweep(overrides), overrides))
    return list({run.folder: run for run in runs}.values())
