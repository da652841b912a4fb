"""Split the command line of a command that compares runs into its own options and the overrides of the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.errors import UserError


def split_arguments(arguments: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Split `key=value` arguments into the options of a command and the overrides of the runner.

    Args:
        arguments: command line after the name of the command.
        defaults: default value of each option, by its key.

    Returns:
        Value of each option, and the other arguments.
    """
    options, overrides = dict(defaults), []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in options:
            options[key] = value
        else:
            overrides.append(argument)
    return options, overrides


def check_option(key: str, value: str, choices: Sequence[str]) -> None:
    """Check that an option has one of its values. Raises UserError."""
    if value not in choices:
        raise UserError(f"{key}={value} is unknown; choose from {', '.join(choices)}")
