"""Errors that end a run, one class for each cause."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


class UserError(Exception):
    """Mistake that the user can correct. Its message is all that is shown; the exit code is 2."""


class Diverged(RuntimeError):
    """Loss or metric that is no longer finite. The run is marked as failed; the exit code is 1."""


class Pruned(Exception):
    """End of a trial of a search that is worse than those before it. The run is interrupted, and could continue."""


class Preempted(SystemExit):
    """End of this process by SLURM or by SIGTERM; its run continues in another job, or by the same command.

    Args:
        message: cause, for the log and state.json.
        job: id of the job to requeue, or None if there is none or SLURM requeues it by itself.
    """

    def __init__(self, message: str, job: str | None) -> None:
        super().__init__(message)
        self.code, self.job = 128 + signal.SIGTERM, job


def is_keyboard_interrupt(error: BaseException) -> bool:
    """Return whether an exception is Ctrl-C, or the SystemExit that Lightning raises for it."""
    return isinstance(error, KeyboardInterrupt) or (
        type(error) is SystemExit and isinstance(error.__context__, KeyboardInterrupt)
    )


def exit_interrupted() -> NoReturn:
    """End the process after Ctrl-C, with exit code 130."""
    hint = " without rerun=true" if "rerun=true" in sys.argv else ""
    print(f"\nstopped; the same command{hint} continues", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)
