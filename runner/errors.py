"""What ends a run early, told apart by whose doing it is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend; the message is all they need to see. Exit code 2."""


class Diverged(RuntimeError):
    """A loss or metric that is no longer finite. Exit code 1, the run is marked failed."""


class Preempted(SystemExit):
    """SLURM ends this process's job; its run goes on in another. job: to be requeued, if any."""

    def __init__(self, message: str, job: str | None) -> None:
        super().__init__(message)
        self.code, self.job = 128 + signal.SIGTERM, job


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns what bad input raises while a run is being set up into UserError."""
    from hydra.errors import InstantiationException

    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"{cause}\n({str(error).splitlines()[-1]})" if cause is not error else str(error)) from error
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(str(error)) from error
