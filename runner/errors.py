"""What ends a run early, told apart by whose doing it is."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class UserError(Exception):
    """A mistake that the user can mend; the message is all they need to see. Exit code 2."""


class Diverged(RuntimeError):
    """A loss or metric that is no longer finite. Exit code 1, the run is marked failed."""


class Preempted(SystemExit):
    """SLURM ends this process's job; its run goes on in another. job: to be requeued, if any."""

    def __init__(self, message: str, job: str | None) -> None:
        super().__init__(message)
        self.code, self.job = 128 + signal.SIGTERM, job


def interrupted() -> NoReturn:
    """Ends a command at Ctrl-C."""
    print("\nstopped; the same command goes on", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def told(error: Exception) -> str:
    """What a mistake is told by: of a choice that there is not, the nearest ones there are; else the error's words."""
    words = str(error) or str(error.__cause__ or type(error).__name__)
    if missing := re.search(r"Could not find '([^/']+)/([^']+)'", words):
        from difflib import get_close_matches

        from runner.help import choices

        group, name = missing.groups()
        there = choices(group)
        if near := get_close_matches(name, there):
            return f"there is no {group}={name}. Did you mean {', '.join(near)}? python -m runner --help lists all"
        return f"there is no {group}={name}; there are {', '.join(there)}"
    if unknown := re.match(r"Could not override '([^']+)'", words):
        return f"there is no key {unknown[1]}; the same command with --cfg job, and without it, shows all keys"
    return words


@contextmanager
def one_message() -> Iterator[None]:
    """For a command's `main`: a mistake of the user's ends in its message and exit code 2.

    With HYDRA_FULL_ERROR=1 it ends in its traceback.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"\n{told(error)}", file=sys.stderr)
        sys.exit(2)


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
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":  # Lightning's, which is slow to import
            raise
        raise UserError(str(error)) from error
