"""One run of a sweep, and what a worker or a job does with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from hydra.core.utils import configure_log
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from runner.address import Run
from runner.compose import compose
from runner.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """overrides: which compose the run, for another process; label: those that tell it from the others of its sweep."""

    overrides: list[str]
    run: Run
    label: str


def work(overrides: list[str]) -> int:
    """Makes the run in this process. Exit code: 0; 2 for a mistake of the user's; 1 for the rest."""
    from runner.main import execute

    try:
        configure_log(compose(overrides).hydra.job_logging)
        execute(Run.compose(overrides))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        log.error("%s", error)
        return 2
    except Exception:
        log.exception("failed")
        return 1
    return 0
