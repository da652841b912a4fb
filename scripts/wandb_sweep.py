"""`python -m scripts.wandb_sweep optimize=<metric> [overrides with a space]`: a W&B sweep's file for the same search.

It is printed: put it into sweep.yaml, register it with `wandb sweep sweep.yaml`, and start the `wandb agent` that W&B
names, on as many machines as wanted. Each trial is a run of this runner. It was not tried against W&B's own servers.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

from runner.config.address import Run
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.sweeps.search import read_settings
from runner.sweeps.search_settings import SWEEPER, Settings, long_names
from runner.sweeps.space import Dimension, first_point, split_space

METHODS = {"tpe": "bayes", "random": "random", "grid": "grid"}  # W&B's name of each sampler


@exit_on_broken_pipe()
@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Print the file of a W&B sweep. Exit codes: 0; 2 for a mistake of the user."""
    overrides = [a for a in (sys.argv[1:] if arguments is None else arguments) if a not in ("-m", SWEEPER)]
    print(yaml.safe_dump(sweep_of(overrides), sort_keys=False), end="")


def sweep_of(overrides: list[str]) -> dict[str, Any]:
    """Return the content of a W&B sweep's file.

    Raises:
        UserError: the search has several metrics or a sampler that W&B has not, or nothing is searched.
    """
    long = long_names(overrides)
    own = [o for o in long if not o.startswith("hydra.")]
    settings = read_settings([SWEEPER, *long])
    fixed, space = split_space(own)
    check(settings)
    Run.compose(first_point(fixed, space))  # names what is misspelt
    ((metric, direction),) = settings.goals
    return {
        "program": "runner",
        "method": METHODS[settings.sampler],
        "metric": {"name": metric, "goal": direction},
        "run_cap": settings.trials,
        "parameters": {d.key: parameter(d) for d in space},
        "command": ["${env}", "python", "-m", "runner", *fixed, "${args_no_hyphens}"],
    }


def check(settings: Settings) -> None:
    """Check that W&B can do this search. Raises UserError."""
    if len(settings.metrics) > 1:
        raise UserError("a W&B sweep has one metric")
    if settings.sampler not in METHODS:
        raise UserError(f"W&B has no sampler={settings.sampler}; choose from {', '.join(METHODS)}")


def parameter(d: Dimension) -> dict[str, Any]:
    """Return a searched key in W&B's terms."""
    if d.values:
        return {"values": [yaml.safe_load(value) for value in d.values]}
    if d.step != 1:
        return {"distribution": "q_uniform", "q": d.step, "min": d.low, "max": d.high}
    name = "int_uniform" if d.whole else "uniform"
    return {"distribution": "log_uniform_values" if d.log and not d.whole else name, "min": d.low, "max": d.high}


if __name__ == "__main__":
    main()
