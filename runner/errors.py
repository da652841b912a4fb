"""What ends a run early, told apart by whose doing it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend; the message is all they need to see. Exit code 2."""


class Diverged(RuntimeError):
    """A loss or metric that is no longer finite. Exit code 1, the run is marked failed."""


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


@contextmanager
def launch_errors() -> Iterator[None]:
    """Turns what the SLURM launcher raises where there is no SLURM into UserError."""
    try:
        yield
    except RuntimeError as error:
        if 'Could not detect "srun"' not in str(error) or shutil.which("srun"):
            raise
        raise UserError(
            "hydra/launcher=submitit_slurm needs SLURM, and there is no srun on this machine.\n"
            "Start the sweep on a node of a cluster, or leave the launcher out: then it runs here."
        ) from error
