"""Transforms of raw columns into categories, as polars expressions from strings to strings.

A transform returns null for a missing value and for a value that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


EXACT = 2**53  # floats below it, as absolute values, stand for one whole number each


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

    value = column.cast(pl.Float64, strict=False)
    small = value.cast(pl.Int64, strict=False)  # truncates towards zero, as int() does
    large = value.clip(lower_bound=1.0).log().pow(2).floor().cast(pl.Int64, strict=False)
    return pl.when(value <= 2).then(small).otherwise(large).cast(pl.String)


def integer(column: pl.Expr) -> pl.Expr:
    """Write a whole number of up to 64 bits as an integer, so that 1, 1.0 and 01 are one category.

    Args:
        column: numbers as strings; null where missing.
    """
    import polars as pl

    number = column.cast(pl.Float64, strict=False)
    exponential = pl.when((number == number.floor()) & (number.abs() < EXACT)).then(number)
    digits = column.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)  # a float would merge large numbers
    return digits.fill_null(exponential.cast(pl.Int64, strict=False)).cast(pl.String)


def hour_of_day(column: pl.Expr) -> pl.Expr:
    """Return the hour, 0 to 23, of a time written as YYMMDDHH.

    Args:
        column: times as strings.
    """
    import polars as pl

    return _time(column).str.slice(6, 2).cast(pl.Int64).cast(pl.String)


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


def _time(column: pl.Expr) -> pl.Expr:
    """Text of a time that is written as YYMMDDHH; null for another."""
    import polars as pl

    return pl.when(column.str.contains(r"^[0-9]{6}([01][0-9]|2[0-3])$")).then(column)


def _weekday(column: pl.Expr) -> pl.Expr:
    """Day of the week as an integer, Sunday 0 as in strftime's %w."""
    import polars as pl

    day = _time(column).str.slice(0, 6).str.strptime(pl.Date, "%y%m%d", strict=False)
    return day.dt.weekday().cast(pl.Int64) % 7


TRANSFORMS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "log_squared": log_squared,
    "integer": integer,
    "hour_of_day": hour_of_day,
    "weekday": weekday,
    "is_weekend": is_weekend,
    "first_word": first_word,
}
