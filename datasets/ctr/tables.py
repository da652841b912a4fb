"""Access to large tables block by block: text files (csv, tsv, gzip) and parquet."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from datasets.ctr.schema import Schema
from datasets.download import CorruptData
from datasets.files import atomic_write

if TYPE_CHECKING:
    import polars as pl

SCAN_BYTES = 1 << 24


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    Args:
        start: first byte (text) or row (parquet) of the block.
        stop: byte or row after the last one.
        first_row: number of rows of the file before the block.
        rows: number of rows in the block.
    """

    start: int
    stop: int
    first_row: int
    rows: int


class Table(Protocol):
    """File of rows that can be read block by block."""

    path: Path
    schema: Schema
    columns: list[str]

    def blocks(self, block_bytes: int) -> list[Block]:
        """Return the blocks of the file, in order, of about `block_bytes` bytes each."""

    def read(self, block: Block) -> pl.DataFrame:
        """Return the columns of the schema in a block, as strings; null where missing."""

    def line(self, row: int) -> str:
        """Return the place of a row in the file, for messages."""


class TextTable:
    """Text file with one row a line.

    Args:
        path: file, not compressed.
        schema: its columns.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self.schema = path, schema
        self.header_bytes = 0
        self.columns = list(schema.columns) if schema.columns is not None else self._read_header()

    def _read_header(self) -> list[str]:
        with open(self.path, "rb") as file:
            line = file.readline()
        self.header_bytes = len(line)
        names = next(csv.reader([line.decode("utf-8-sig").rstrip("\r\n")], delimiter=self.schema.separator), [])
        self.schema.check_columns(names, str(self.path))
        return names

    def blocks(self, block_bytes: int) -> list[Block]:
        """Return the blocks of the file, cut at line ends.

        Args:
            block_bytes: size of a block in bytes; a block has at least one line.
        """
        blocks, start, row = [], self.header_bytes, 0
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            while start < size:
                stop, rows = _next_line_end(file, start, block_bytes, size)
                blocks.append(Block(start, stop, row, rows))
                start, row = stop, row + rows
        if not blocks:
            raise CorruptData(f"{self.path} has no rows")
        return blocks

    def read(self, block: Block) -> pl.DataFrame:
        """Return the columns of the schema in a block, as strings; null where missing.

        Args:
            block: block of this file.

        Raises:
            CorruptData: a line has more or fewer columns than the schema; the message names the line.
        """
        import polars as pl

        with open(self.path, "rb") as file:
            file.seek(block.start)
            data = file.read(block.stop - block.start)
        self._check_widths(data, block)
        names = {index: self.columns[index] for index in sorted(map(self.columns.index, self.schema.sources))}
        frame = pl.read_csv(
            io.BytesIO(data),
            has_header=False,
            separator=self.schema.separator,
            quote_char='"' if self.schema.quoted else None,
            columns=list(names),
            infer_schema=False,
            encoding="utf8-lossy",
        )
        frame.columns = list(names.values())
        if frame.height != block.rows:
            lines = f"lines {self.line(block.first_row)} to {self.line(block.first_row + block.rows - 1)}"
            raise CorruptData(
                f"{self.path}: {lines} hold {frame.height} rows, expected {block.rows}: are there empty lines?"
            )
        return frame.select(self.schema.sources)

    def line(self, row: int) -> str:
        """Return the line number of a row, counted from 1.

        Args:
            row: number of rows before it.
        """
        return str(row + 1 + (self.header_bytes > 0))

    def _check_widths(self, data: bytes, block: Block) -> None:
        widths = _quoted_widths(data, self.schema.separator) if self.schema.quoted and b'"' in data else None
        if widths is None:
            widths = _widths(data, self.schema.separator)
        wrong = np.flatnonzero(widths != len(self.columns))
        if len(wrong):
            raise CorruptData(
                f"{self.path}, line {self.line(block.first_row + int(wrong[0]))}: {widths[wrong[0]]} columns, expected "
                f"{len(self.columns)} ({', '.join(self.columns[:4])}, ...)"
            )


class ParquetTable:
    """Parquet file.

    Args:
        path: file.
        schema: its columns.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        import pyarrow.parquet

        self.path, self.schema = path, schema
        file = pyarrow.parquet.ParquetFile(path)
        self.columns = list(file.schema_arrow.names)
        self.schema.check_columns(self.columns, str(path))
        self.rows = file.metadata.num_rows

    def blocks(self, block_bytes: int) -> list[Block]:
        """Return the blocks of the file.

        Args:
            block_bytes: size of a block, with 8 bytes counted for each value.
        """
        if not self.rows:
            raise CorruptData(f"{self.path} has no rows")
        step = max(1, block_bytes // (8 * len(self.schema.sources)))
        starts = range(0, self.rows, step)
        return [Block(start, min(start + step, self.rows), start, min(step, self.rows - start)) for start in starts]

    def read(self, block: Block) -> pl.DataFrame:
        """Return the columns of the schema in a block, as strings; null where missing.

        Args:
            block: block of this file.
        """
        import polars as pl

        columns = self.schema.sources
        frame = pl.scan_parquet(self.path).select(columns).slice(block.start, block.rows).collect()
        return frame.with_columns(pl.col(name).cast(pl.String) for name in columns)

    def line(self, row: int) -> str:
        """Return the number of a row, counted from 1.

        Args:
            row: number of rows before it.
        """
        return f"row {row + 1}"


def open_table(path: Path, schema: Schema, work: Path) -> Table:
    """Open a table by the ending of its name.

    Args:
        path: file of the table; `.parquet`, or text, which may be compressed (`.gz`).
        schema: its columns.
        work: folder where a compressed file is unpacked to, because blocks are read from any place.
    """
    if path.suffix == ".parquet":
        return ParquetTable(path, schema)
    if path.suffix == ".gz":
        return TextTable(_unpacked(path, work), schema)
    return TextTable(path, schema)


def _unpacked(path: Path, work: Path) -> Path:
    target = work / path.stem
    if not target.exists():
        work.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_write(target) as temporary, gzip.open(path) as source, open(temporary, "wb") as out:
                shutil.copyfileobj(source, out, SCAN_BYTES)
        except (gzip.BadGzipFile, EOFError) as error:
            raise CorruptData(f"{path} is no whole gzip file ({error})") from error
    return target


def _next_line_end(file: io.BufferedReader, start: int, wanted: int, size: int) -> tuple[int, int]:
    """Return the end of the first line that ends `wanted` bytes or more after `start`, and the lines up to there."""
    rows, position = 0, start
    file.seek(start)
    while position < size:
        data = file.read(SCAN_BYTES)
        lines = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
        ends = np.searchsorted(lines, start + wanted - position - 1)
        if ends < len(lines):
            return position + int(lines[ends]) + 1, rows + int(ends) + 1
        rows, position = rows + len(lines), position + len(data)
    file.seek(size - 1)
    return size, rows + (file.read(1) != b"\n")


def _widths(data: bytes, separator: str) -> np.ndarray:
    """Count the columns of each line by their separators."""
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == 10)
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(array))
    separators = np.flatnonzero(array == ord(separator))
    return np.diff(np.searchsorted(separators, ends), prepend=0) + 1


def _quoted_widths(data: bytes, separator: str) -> np.ndarray:
    """Count the columns of each line, where separators may stand between quotes."""
    lines = data.decode("utf-8", errors="replace").splitlines()
    return np.array([len(next(csv.reader([line], delimiter=separator), [])) for line in lines])
