"""Check arguments that several data modules and methods share."""

from __future__ import annotations


def check_positive(owner: str, **values: float | None) -> None:
    """Raise ValueError if a value is zero or negative.

    Args:
        owner: config group of the values, such as "dataset" or "method"; it stands before the name in the message.
        **values: numbers by argument name. None stands for "not set" and passes.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{owner}.{name} must be positive, got {value}")


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError if a value is none of the choices.

    Args:
        key: full config key, such as "method.route".
        value: value to check.
        choices: accepted values.
    """
    if value not in choices:
        raise ValueError(f"{key}={value} is unknown; choose from {', '.join(choices)}")
