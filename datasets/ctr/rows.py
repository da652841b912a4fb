"""Labels, times and categories of the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.ctr.schema import Field, Schema
from datasets.ctr.tables import Block, Table, open_table
from datasets.ctr.transforms import TRANSFORMS
from datasets.ctr.vocabulary import MISSING
from datasets.download import CorruptData

if TYPE_CHECKING:
    import polars as pl


def labels_of(table: Table, block: Block, frame: pl.DataFrame) -> np.ndarray:
    """Return the labels of rows, (rows,) uint8.

    Args:
        table: file of the rows.
        block: their block.
        frame: the rows as strings.

    Raises:
        CorruptData: a label is not 0 or 1, or no number where labels are compared with one; the message names the line.
    """
    import polars as pl

    label, above = str(table.schema.label), table.schema.positive_above
    values = frame[label].cast(pl.Float64, strict=False)
    valid = values.is_in([0.0, 1.0]) if above is None else values.is_finite()
    wrong = np.flatnonzero(~valid.fill_null(False).to_numpy())
    if len(wrong):
        row = int(wrong[0])
        raise CorruptData(
            f"{table.place(block.first_row + row)}: label {label} is {frame[label][row]!r}, expected "
            f"{'0 or 1' if above is None else 'a number'}"
        )
    return (values > (0.5 if above is None else above)).cast(pl.UInt8).to_numpy()


def times_of(path: Path, schema: Schema, work: Path, block: Block, column: str) -> np.ndarray:
    """Return the times of rows, (rows,) int64; the column need not be an input.

    Args:
        path: file of the rows.
        schema: its columns.
        work: folder where a compressed file is unpacked to.
        block: block of the rows.
        column: column of the times.

    Raises:
        CorruptData: a time is missing or no whole number; the message names the line.
        ValueError: the file has no such column.
    """
    import polars as pl

    table = open_table(path, replace(schema, label=None, fields=(Field(column),)), work)
    text = table.read(block)[column]
    times = text.cast(pl.Int64, strict=False)
    if times.null_count():
        row = int(times.is_null().arg_true()[0])
        raise CorruptData(
            f"{table.place(block.first_row + row)}: dataset.split.column {column} is {text[row]!r}, expected a whole "
            "number"
        )
    return times.to_numpy()


def categories(table: Table, block: Block, frame: pl.DataFrame) -> Iterator[pl.Series]:
    """Yield the categories of each field as strings, missing ones as `MISSING`.

    Args:
        table: file of the rows.
        block: their block.
        frame: the rows as strings; a missing value is null or empty.

    Raises:
        CorruptData: a transform does not know a value; the message names the line.
    """
    import polars as pl

    for field in table.schema.fields:
        if field.transform is None:
            yield frame[field.source].fill_null(MISSING)
            continue
        raw = pl.when(pl.col(field.source) != "").then(pl.col(field.source))
        both = frame.select(raw.alias("raw"), TRANSFORMS[field.transform](raw).alias("value"))
        refused = (both["raw"].is_not_null() & both["value"].is_null()).arg_true()
        if len(refused):
            row = int(refused[0])
            raise CorruptData(
                f"{table.place(block.first_row + row)}: transform {field.transform} of column {field.source} does not "
                f"take {both['raw'][row]!r}"
            )
        yield both["value"].fill_null(MISSING)
