"""Expand the sweep of an experiment and of the command line into the overrides of single runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

from hydra.core.override_parser.types import Glob, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from runner.config.compose import parse
from runner.config.help import choices
from runner.errors import UserError

Grid = dict[str, list[str]]  # override key -> its values, as text in Hydra's syntax


def expand_sweep(cfg: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every run of a sweep.

    The sweep is the experiment's node `sweep` (one grid or a list of grids), or `hydra.sweeper.params`, with the
    overrides of the command line. An override of a key that grids sweep keeps, in each grid, the values that the grid
    lists, and drops grids that list none of them. A value that no grid lists is run in all grids if they list the same
    values of its key (such as a new seed), else in the first of them (such as a new method).

    Args:
        cfg: composed config of the experiment, with Hydra's node.
        overrides: overrides of the command line, which may sweep too.

    Raises:
        UserError: a grid is malformed, or an override sweeps over no value or over a continuous interval.
    """
    grids = [{key: values_of(f"{key}={as_text(key, value)}") for key, value in g.items()} for g in _grids(cfg)]
    given = {parse(o).get_key_element(): o for o in overrides}
    values = {key: values_of(o) for key, o in given.items() if _is_value(parse(o))}
    flags = [o for key, o in given.items() if key not in values]  # deletions (~key)
    runs: list[list[str]] = []
    for grid in grids:
        chosen = _choose(grid, grids, values)
        if chosen is not None:
            keyed = [[f"{key}={value}" for value in options] for key, options in chosen.items()]
            runs += [[*run, *flags] for run in map(list, itertools.product(*keyed))]
    return runs


def _grids(cfg: DictConfig) -> list[dict[str, Any]]:
    node = cfg.get("sweep")
    if node is None:
        node = cfg.hydra.sweeper.params or {}
    content: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    grids = content if isinstance(content, list) else [content]
    if not grids or not all(isinstance(grid, dict) for grid in grids):
        raise UserError(f"sweep must be a grid (key: values) or a list of grids, got {content}")
    return grids


def as_text(key: str, value: Any) -> str:
    """Return a grid's value in Hydra's syntax: a YAML list becomes several values, other text stays."""
    if isinstance(value, dict) or value is None:
        raise UserError(f"sweep: {key} must be a value, values separated by commas, or a list, got {value}")
    if isinstance(value, list):
        return ",".join(as_text(key, item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_value(override: Override) -> bool:
    return not override.is_delete()


def _choose(grid: Grid, grids: Sequence[Grid], given: Grid) -> Grid | None:
    """Apply the command line's values to a grid; None if the grid is left out."""
    chosen = dict(grid)
    for key, values in given.items():
        kept = [value for value in values if _belongs(value, key, grid, grids)]
        if not kept:
            return None
        chosen[key] = kept
    return chosen


def _belongs(value: str, key: str, grid: Grid, grids: Sequence[Grid]) -> bool:
    """Return whether a value of the command line is run in a grid, as `expand_sweep` describes it."""
    sweeping = [other for other in grids if key in other]
    if key not in grid or not sweeping:
        return True
    if any(value in other[key] for other in sweeping):
        return value in grid[key]
    same_values = all(set(other[key]) == set(sweeping[0][key]) for other in sweeping)
    return same_values or grid is sweeping[0]


def values_of(override: str) -> list[str]:
    """Return the values of an override as text: one, or several if it sweeps.

    Raises:
        UserError: it sweeps over no value, or over a continuous interval, which only a search can do.
    """
    parsed = parse(override)
    key, value = parsed.get_key_element(), parsed.value()
    if not parsed.is_sweep_override():
        return [override.partition("=")[2]]
    if isinstance(value, Glob):
        return _matching(key, value)
    if not parsed.is_discrete_sweep():
        raise UserError(f"{override}: a grid needs single values, such as {key}=0.1,0.2 or {key}=range(0,4)")
    values = (
        _decimal_range(value) if isinstance(value, RangeSweep) else [str(v) for v in parsed.sweep_string_iterator()]
    )
    if not values:
        raise UserError(f"{override} contains no value")
    return list(dict.fromkeys(values))


def _matching(key: str, glob: Glob) -> list[str]:
    """Return the options of a group that match a glob. `*` does not cross a slash."""

    def matches(name: str, patterns: Iterable[str]) -> bool:
        return any(p.count("/") == name.count("/") and fnmatchcase(name, p) for p in patterns)

    names = [n for n in choices(key) if matches(n, glob.include) and not matches(n, glob.exclude)]
    if not names:
        raise UserError(f"{key}=glob({','.join(glob.include)}) matches no option; there are {', '.join(choices(key))}")
    return names


def _decimal_range(sweep: RangeSweep) -> list[str]:
    """Return the values of a range without binary rounding: range(0.1,0.5,0.1) has 0.3, not 0.30000000000000004."""
    start, stop, step = (Decimal(repr(v)) for v in (sweep.start or 0, sweep.stop, sweep.step))
    count = max(0, math.ceil((stop - start) / step)) if step else 0
    values = [start + i * step for i in range(count)]
    whole = all(isinstance(v, int) for v in (sweep.start or 0, sweep.stop, sweep.step))
    values = [v for v in values if (v < stop if step > 0 else v > stop)]
    if sweep.shuffle:
        raise UserError("shuffle() has no meaning here: the runs of a sweep are independent of each other")
    return [str(int(v)) if whole else repr(float(v)) for v in values]
