"""`python -m runner.test run=<folder or id> [dataset=D] [overrides]`: a test of a finished run's weights.

Another data set, other attacks or other test settings of the method: any key of a run. The test is a run of its own,
with its own address. `run` is the folder of the finished run, its id, or its overrides in quotes.
"""

from __future__ import annotations

import sys

from omegaconf import OmegaConf

from runner.config.address import Run, resolved
from runner.config.compose import DEFAULT, change_keys, compose_run, is_group, parse, searchpath_of
from runner.config.messages import cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.loading import FinishedRun, load

KEPT = ("method", "model", "dataset", "schedule", "needs", "alias", "seed", "vars", "threads")  # of the finished run
NAMED = ("method", "model", "dataset")


@exit_on_broken_pipe()
@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Test a finished run. Exit codes: 0; 2 for a mistake of the user; 1 for other failures."""
    from hydra.core.utils import configure_log

    from runner.config.compose import compose
    from runner.main import execute

    arguments = sys.argv[1:] if arguments is None else arguments
    reference = next((a.partition("=")[2] for a in arguments if a.startswith("run=")), None)
    if reference is None:
        raise UserError("which run? python -m runner.test run=<folder or id> [dataset=D] [overrides]")
    overrides = [a for a in arguments if not a.startswith("run=")]
    outputs = next((a.partition("=")[2] for a in overrides if a.startswith("paths.outputs=")), "outputs")
    finished = load(reference, outputs)
    configure_log(compose([DEFAULT]).hydra.job_logging)
    execute(test_of(finished, overrides))


def test_of(finished: FinishedRun, overrides: list[str]) -> Run:
    """Return the run that tests the weights of a finished run.

    Args:
        finished: run whose config and weights are taken.
        overrides: overrides of the test, such as `dataset=cifar100`; groups that they choose replace the finished
            run's, other keys change its config.
    """
    chosen = {parse(o).key_or_group for o in overrides if is_group(parse(o))}
    searchpath = searchpath_of(overrides)
    groups = [f"{group}={finished.choices[group]}" for group in NAMED if group not in chosen]
    if not chosen & {*NAMED, "experiment"}:
        groups = [DEFAULT]  # all of it comes from the finished run, whose own files need not be found
    cfg, choices = compose_run([*groups, *searchpath, *(o for o in overrides if is_group(parse(o)))])
    choices |= {group: finished.choices[group] for group in NAMED if group not in chosen}
    if "experiment" not in chosen:
        choices.pop("experiment", None)
    for key in KEPT:
        if key not in chosen:
            OmegaConf.update(cfg, key, finished.config[key], merge=False)
    values = [o for o in overrides if not is_group(parse(o)) and o not in searchpath]
    change_keys(cfg, values, f"those of the finished run are in {finished.folder}/config.yaml")
    cfg.stages, cfg.init_from = ["test"], str(finished.checkpoint)
    return Run(OmegaConf.create(resolved(cfg)), choices, searchpath)


if __name__ == "__main__":
    main()
