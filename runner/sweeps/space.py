"""Space of a search: overrides in Hydra's grammar that name a range or several values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep

from runner.config.compose import parse
from runner.config.grids import values_of
from runner.errors import UserError


@dataclass(frozen=True)
class Dimension:
    """One searched key.

    Args:
        key: override key, such as `method.lr` or `+trainer.gradient_clip_val`.
        values: values to choose from, as text; empty for a range of numbers.
        low: least number of a range.
        high: greatest number of a range.
        log: whether a range is searched on a logarithmic scale.
        whole: whether a range has whole numbers alone.
        step: distance between the numbers of a range of whole numbers.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    step: int = 1

    def override(self, value: Any) -> str:
        """Return the override that gives the key a value; real numbers are rounded to six digits."""
        return f"{self.key}={f'{value:.6g}' if isinstance(value, float) else value}"


def split_space(overrides: Iterable[str]) -> tuple[list[str], list[Dimension]]:
    """Split overrides into those that hold for all trials and the searched ones.

    `interval(a,b)` is a range of real numbers, `int(interval(a,b))` of whole ones, `tag(log,interval(a,b))` on a
    logarithmic scale; `range(a,b)` has whole numbers below b; lists, `choice()` and `glob()` are choices.

    Raises:
        UserError: nothing is searched, `seed` is, or a range is empty or not positive on a logarithmic scale.
    """
    fixed, space = [], []
    for override in overrides:
        if not parse(override).is_sweep_override():
            fixed.append(override)
        elif len(values := _values(override)) == 1:
            fixed.append(f"{parse(override).get_key_element()}={values[0]}")
        else:
            space.append(dimension(override))
    if not space:
        raise UserError("what is searched? Give a key several values or an interval: 'method.lr=interval(0.001,0.1)'")
    if any(d.key == "seed" for d in space):
        raise UserError("a search has no use for several seeds: the luckiest would win. Give one, such as seed=0")
    return fixed, space


def first_point(fixed: Sequence[str], space: Sequence[Dimension]) -> list[str]:
    """Return the overrides of one point of a space: the first value or the least number of each dimension."""
    return [*fixed, *(d.override(d.values[0] if d.values else d.low) for d in space)]


def dimension(override: str) -> Dimension:
    """Return the dimension that an override names. Raises UserError if its range cannot be searched."""
    parsed = parse(override)
    key, value = parsed.get_key_element(), parsed.value()
    log = "log" in (getattr(value, "tags", None) or ())
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None or not -math.inf < low < high < math.inf:
            raise UserError(f"{override}: an interval has two finite numbers, the lesser one first")
        found = Dimension(key, low=low, high=high, log=log, whole=isinstance(low, int) and isinstance(high, int))
    elif isinstance(value, RangeSweep) and _is_whole_range(value):
        numbers = range(int(value.start or 0), int(value.stop or 0), int(value.step))
        found = Dimension(key, low=numbers[0], high=numbers[-1], log=log, whole=True, step=numbers.step)
    else:
        found = Dimension(key, values=tuple(_values(override)))
    if found.log and (found.low <= 0 or found.step != 1):
        raise UserError(f"{override}: a logarithmic scale needs positive numbers, and no step")
    return found


def _is_whole_range(value: RangeSweep) -> bool:
    return all(isinstance(v, int) for v in (value.start or 0, value.stop, value.step)) and value.step > 0


def _values(override: str) -> list[str]:
    return [] if isinstance(parse(override).value(), IntervalSweep) else values_of(override)
