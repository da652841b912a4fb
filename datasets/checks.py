"""Check arguments that several data modules and methods share.

Every function raises ValueError with a message that names the config key and the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

MAX_SEED = 2**32 - 1  # largest seed of numpy's RandomState


def _number(owner: str, name: str, value: Any) -> float:
    """Return a value, or raise ValueError if it is no number."""
    if not isinstance(value, Real):
        raise ValueError(f"{owner}.{name} must be a number, got {value!r}")
    return float(value)


def check_positive(owner: str, **values: float | None) -> None:
    """Raise ValueError if a value is zero, negative or no number.

    Args:
        owner: config group of the values, such as "dataset" or "method"; it stands before the name in the message.
        **values: numbers by argument name. None stands for "not set" and passes.
    """
    for name, value in values.items():
        if value is not None and not _number(owner, name, value) > 0:
            raise ValueError(f"{owner}.{name} must be positive, got {value}")


def check_count(owner: str, **values: int | None) -> None:
    """Raise ValueError if a value is not positive or no whole number.

    Args:
        owner: config group of the values, as in `check_positive`.
        **values: numbers by argument name. None stands for "not set" and passes.
    """
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{owner}.{name} must be a positive whole number, got {value!r}")
    check_positive(owner, **values)


def check_widths(owner: str, **widths: Sequence[int]) -> None:
    """Raise ValueError if a list of layer widths is empty, or a width is not positive or no whole number.

    Args:
        owner: config group of the lists, as in `check_positive`.
        **widths: lists by argument name.
    """
    for name, values in widths.items():
        if not values:
            raise ValueError(f"{owner}.{name} must name at least one width")
        check_count(owner, **{f"{name}[{place}]": value for place, value in enumerate(values)})


def check_not_negative(owner: str, **values: float | None) -> None:
    """Raise ValueError if a value is negative or no number.

    Args:
        owner: config group of the values, as in `check_positive`.
        **values: numbers by argument name. None stands for "not set" and passes.
    """
    for name, value in values.items():
        if value is not None and not _number(owner, name, value) >= 0:
            raise ValueError(f"{owner}.{name} must not be negative, got {value}")


def check_fraction(owner: str, **values: float | None) -> None:
    """Raise ValueError if a value lies outside [0, 1] or is a truth value.

    Args:
        owner: config group of the values, as in `check_positive`.
        **values: numbers by argument name. None stands for "not set" and passes.
    """
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{owner}.{name} must be a number in [0, 1], got {value!r}")


def check_seed(owner: str, **values: int) -> None:
    """Raise ValueError if a value is not a seed that numpy accepts: a whole number in [0, 2^32 - 1].

    Args:
        owner: config group of the values, as in `check_positive`.
        **values: seeds by argument name.
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SEED:
            raise ValueError(f"{owner}.{name} must be a whole number in [0, {MAX_SEED}], got {value!r}")


def check_choice(key: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ValueError if a value is none of the choices.

    Args:
        key: full config key, such as "method.route".
        value: value to check.
        choices: accepted values.
    """
    if value not in choices:
        raise ValueError(f"{key}={value} is unknown; choose from {', '.join(map(str, choices))}")


def check_keys(key: str, value: object, choices: tuple[str, ...], required: tuple[str, ...] = ()) -> None:
    """Raise ValueError if a value is no mapping, has unknown keys or lacks required ones.

    Args:
        key: full config key, such as "dataset.augment".
        value: value to check.
        choices: accepted keys.
        required: keys that must be present.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must have the keys {', '.join(choices)}, got {value!r}: write {key}.{choices[0]}=...")
    if unknown := [str(name) for name in value if name not in choices]:
        raise ValueError(f"{key}.{unknown[0]} is unknown; choose from {', '.join(choices)}")
    if missing := [name for name in required if name not in value]:
        raise ValueError(f"{key}.{missing[0]} is missing: {key} needs {' and '.join(required)}")
