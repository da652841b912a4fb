"""One run of a sweep, and its execution by a worker or a job."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from hydra.core.utils import configure_log

from runner.config.address import Run
from runner.config.compose import compose
from runner.config.messages import USER_ERRORS, describe_error
from runner.console import OneLineARun
from runner.errors import Pruned

log = logging.getLogger(__name__)
ONE_LINE = "RUNNER_ONE_LINE"  # environment variable of workers that share the sweep's terminal


@dataclass(frozen=True)
class Task:
    """One run of a sweep.

    Args:
        overrides: overrides that compose the run in another process.
        run: the run.
        label: overrides that tell it from the other runs of its sweep.
    """

    overrides: list[str]
    run: Run
    label: str


def execute_task(overrides: list[str]) -> int:
    """Execute a run in this process. Returns the exit code: 0; 2 for a mistake of the user; 1 for other failures."""
    from runner.main import execute

    try:
        configure_log(compose(overrides).hydra.job_logging)
        if os.environ.get(ONE_LINE):
            for handler in logging.getLogger().handlers:
                handler.addFilter(OneLineARun())
        execute(Run.compose(overrides))
    except USER_ERRORS as error:
        log.error("%s", describe_error(error))
        return 2
    except Pruned as error:
        log.info("%s", error)
    except Exception:
        log.exception("failed")
        return 1
    return 0
