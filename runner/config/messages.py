"""Turn errors into the one message that a user sees."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from runner.config.compose import group_options
from runner.config.help import choices
from runner.errors import Diverged, UserError

LIGHTNING_REFUSES = "MisconfigurationException"  # an error of Lightning, which is slow to import
USER_ERRORS = (UserError, HydraException, OmegaConfBaseException)


def describe_error(error: Exception) -> str:
    """Return the message of an error for the user; for an unknown option it suggests the closest existing ones."""
    message = str(error) or str(error.__cause__ or type(error).__name__)
    if missing := re.search(r"Could not (?:find|load) '((?:hydra/)?[^/']+)/([^']+)'", message):
        group, name = missing.groups()
        options = dict.fromkeys(group_options(group), "") if group.startswith("hydra/") else choices(group)
        if close := get_close_matches(name, options):
            return (
                f"there is no {group}={name}. Did you mean {', '.join(close)}? "
                f"All options: python -m runner --help {group}"
            )
        first = sorted(options, key=lambda option: option.count("/"))[:12]
        more = f", ... ({len(options)} in all: python -m runner --help {group})" if len(options) > 12 else ""
        return f"there is no {group}={name}; choose from {', '.join(first)}{more}"
    if empty := re.search(r"Could not find '((?:hydra/)?[^/']+)/'", message):
        return f"{empty[1]}= names nothing; python -m runner --help {empty[1]} lists the options"
    if re.match(r"You must specify '(method|dataset|model)'", message):
        return (
            "choose a method (method=<name>) or an experiment (experiment=<paper>/<name>); "
            "python -m runner --help lists them, and python -m runner alone runs the demo"
        )
    if dangling := re.match(r"Interpolation key '([^']+)' not found\s+full_key: (\S+)", message):
        return f"{dangling[2]} refers to {dangling[1]}, which is not set"
    if unknown := re.match(r"Could not override '([^']+)'", message):
        return f"unknown key {unknown[1]}. To list all keys, leave {unknown[1]} out and add --cfg job"
    return message


@contextmanager
def cli_errors() -> Iterator[None]:
    """End a command with one message: exit code 2 if the user made a mistake, 1 if a training diverged.

    With HYDRA_FULL_ERROR=1 in the environment the error keeps its traceback.
    """
    try:
        yield
    except USER_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"\n{describe_error(error)}", file=sys.stderr)
        sys.exit(2)
    except Diverged as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"\n{error}: the training diverged, and the run counts as failed", file=sys.stderr)
        sys.exit(1)


@contextmanager
def as_user_error() -> Iterator[None]:
    """Turn errors that bad input raises while a run is set up into UserError."""
    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"{cause}\n({str(error).splitlines()[-1]})" if cause is not error else str(error)) from error
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(str(error)) from error
    except Exception as error:
        if type(error).__name__ != LIGHTNING_REFUSES:
            raise
        raise UserError(str(error)) from error


@contextmanager
def stage_errors() -> Iterator[None]:
    """Turn a ValueError that a method or data set itself raises while a stage runs into UserError.

    One that a library raises is no mistake of the user and keeps its traceback, save what Lightning and its callbacks
    say of settings that do not fit each other.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ == LIGHTNING_REFUSES:
            raise UserError(str(error)) from error
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
        own = isinstance(error, ValueError) and raised_in.partition(".")[0] in ("methods", "datasets")
        if own or (isinstance(error, RuntimeError) and raised_in.startswith("pytorch_lightning.callbacks")):
            raise UserError(str(error)) from error
        raise
