"""Transforms of raw columns into categories, as polars expressions from strings to strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


def import_polars() -> Any:
    """Return the polars module, or raise ImportError with the command that installs it."""
    try:
        import polars
    except ImportError as error:
        raise ImportError(
            "preparing click logs needs polars and pyarrow: pip install 'paper-runner[ctr]'"
            " (pip install -e '.[ctr]' in a checkout)"
        ) from error
    return polars


def log_squared(column: pl.Expr) -> pl.Expr:
    """Discretise a number v: int(v) up to 2, else floor(ln(v)^2).

    The rule of the winners of the Criteo challenge, as the paper's group applies it. It is not monotone between 2
    and 5: 2 -> 2, 3 -> 1, 5 -> 2.

    Args:
        column: numbers as strings; null where missing.
    """
    import polars as pl

    value = column.cast(pl.Float64)
    small = value.cast(pl.Int64)  # truncates towards zero, as int() does
    large = value.clip(lower_bound=1.0).log().pow(2).floor().cast(pl.Int64)
    return pl.when(value <= 2).then(small).otherwise(large).cast(pl.String)


def integer(column: pl.Expr) -> pl.Expr:
    """Write a number as an integer, so that 1, 1.0 and 01 are one category.

    Args:
        column: numbers as strings; null where missing.
    """
    import polars as pl

    return column.cast(pl.Float64).cast(pl.Int64).cast(pl.String)


def hour_of_day(column: pl.Expr) -> pl.Expr:
    """Return the hour, 0 to 23, of a time written as YYMMDDHH.

    Args:
        column: times as strings.
    """
    import polars as pl

    return column.str.slice(6, 2).cast(pl.Int64).cast(pl.String)


def weekday(column: pl.Expr) -> pl.Expr:
    """Return the day of the week, 0 for Sunday, of a time written as YYMMDDHH.

    Args:
        column: times as strings.
    """
    import polars as pl

    return _weekday(column).cast(pl.String)


def is_weekend(column: pl.Expr) -> pl.Expr:
    """Return 1 for Saturday and Sunday, else 0, of a time written as YYMMDDHH.

    Args:
        column: times as strings.
    """
    import polars as pl

    return _weekday(column).is_in([0, 6]).cast(pl.Int64).cast(pl.String)


def first_word(column: pl.Expr) -> pl.Expr:
    """Return the text before the first blank.

    Args:
        column: texts.
    """
    return column.str.split(" ").list.first()


def _weekday(column: pl.Expr) -> pl.Expr:
    """Day of the week as an integer, Sunday 0 as in strftime's %w."""
    import polars as pl

    return column.str.slice(0, 6).str.strptime(pl.Date, "%y%m%d").dt.weekday().cast(pl.Int64) % 7


TRANSFORMS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "log_squared": log_squared,
    "integer": integer,
    "hour_of_day": hour_of_day,
    "weekday": weekday,
    "is_weekend": is_weekend,
    "first_word": first_word,
}
