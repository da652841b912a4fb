"""Access to large tables block by block: text files (csv, tsv, gzip) and parquet."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from datasets.ctr.manifest import address
from datasets.ctr.schema import Schema
from datasets.download import CorruptData
from datasets.files import atomic_write

if TYPE_CHECKING:
    import polars as pl

SCAN_BYTES = 1 << 24
NOT_UTF8 = "{} is not UTF-8 text: convert the file, for instance with iconv -f latin1 -t utf8"


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

    name: Path
    path: Path
    schema: Schema
    columns: list[str]

    def blocks(self, block_bytes: int) -> list[Block]:
        """Return the blocks of the file, in order, of about `block_bytes` bytes each."""

    def read(self, block: Block) -> pl.DataFrame:
        """Return the columns of the schema in a block, as strings; null where missing."""

    def place(self, row: int) -> str:
        """Return file and line of a row, for messages."""


class TextTable:
    """Text file with one row a line.

    Args:
        path: file, not compressed.
        schema: its columns.
        name: file that messages name; None: `path`.
    """

    def __init__(self, path: Path, schema: Schema, name: Path | None = None) -> None:
        self.path, self.schema, self.name = path, schema, name or path
        self.header_bytes = 0
        self.columns = list(schema.columns) if schema.columns is not None else self._read_header()

    def _read_header(self) -> list[str]:
        with open(self.path, "rb") as file:
            line = file.readline()
        self.header_bytes = len(line)
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CorruptData(NOT_UTF8.format(f"{self.name}, line 1")) from error
        names = next(csv.reader([text], delimiter=self.schema.separator), [])
        self.schema.check_columns(names, str(self.name))
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
            raise CorruptData(f"{self.name} has no rows")
        return blocks

    def read(self, block: Block) -> pl.DataFrame:
        """Return the columns of the schema in a block, as strings; null where missing.

        Args:
            block: block of this file.

        Raises:
            CorruptData: a line has more or fewer columns than the schema, an open quote or bytes that are not UTF-8;
                the message names the line.
        """
        import polars as pl

        with open(self.path, "rb") as file:
            file.seek(block.start)
            data = file.read(block.stop - block.start)
        self._check_lines(data, block)
        names = {index: self.columns[index] for index in sorted(map(self.columns.index, self.schema.sources))}
        try:
            frame = pl.read_csv(
                io.BytesIO(data),
                has_header=False,
                separator=self.schema.separator,
                quote_char='"' if self.schema.quoted else None,
                columns=list(names),
                infer_schema=False,
            )
        except pl.exceptions.PolarsError as error:
            raise CorruptData(self._refusal(data, block, error)) from error
        frame.columns = list(names.values())
        if frame.height != block.rows:
            raise CorruptData(
                f"{self.place(block.first_row)} and the {block.rows - 1} lines after it hold {frame.height} rows: are "
                "there empty lines?"
            )
        return frame.select(self.schema.sources)

    def place(self, row: int) -> str:
        """Return file and line of a row, for messages.

        Args:
            row: number of rows before it.
        """
        return f"{self.name}, line {row + 1 + (self.header_bytes > 0)}"

    def _check_lines(self, data: bytes, block: Block) -> None:
        widths, quotes = _count_lines(data, self.schema.separator, self.schema.quoted)
        open_quotes, wrong = np.flatnonzero(quotes % 2), np.flatnonzero(widths != len(self.columns))
        if len(open_quotes) and (not len(wrong) or open_quotes[0] <= wrong[0]):
            raise CorruptData(
                f"{self.place(block.first_row + int(open_quotes[0]))}: a double quote is open at the end of the line. "
                "If quotes are part of the values, set dataset.quoted=false; values with line ends are not supported"
            )
        if len(wrong):
            raise CorruptData(
                f"{self.place(block.first_row + int(wrong[0]))}: {widths[wrong[0]]} columns, expected "
                f"{len(self.columns)} ({', '.join(self.columns[:4])}, ...)"
            )

    def _refusal(self, data: bytes, block: Block, error: Exception) -> str:
        try:
            data.decode()
        except UnicodeDecodeError as broken:
            return NOT_UTF8.format(self.place(block.first_row + data.count(b"\n", 0, broken.start)))
        return f"{self.place(block.first_row)} or one of the {block.rows - 1} after it: {str(error).splitlines()[0]}"


class ParquetTable:
    """Parquet file.

    Args:
        path: file.
        schema: its columns.

    Raises:
        CorruptData: the file is damaged, or a column of the schema has no plain values.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        self.path, self.schema, self.name = path, schema, path
        try:
            file = pyarrow.parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise CorruptData(f"{path} is no readable parquet file: {error}") from error
        self.columns = list(file.schema_arrow.names)
        self.schema.check_columns(self.columns, str(path))
        for name in schema.sources:
            kind = file.schema_arrow.field(name).type
            if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                raise CorruptData(f"{path}: column {name} is of type {kind}; expected text, numbers, times or booleans")
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

        columns, label = self.schema.sources, self.schema.label
        try:
            frame = pl.scan_parquet(self.path).select(columns).slice(block.start, block.rows).collect()
        except pl.exceptions.PolarsError as error:
            raise CorruptData(f"{self.name} is damaged: {str(error).splitlines()[0]}") from error
        if label is not None and frame[label].dtype == pl.Boolean:
            frame = frame.with_columns(pl.col(label).cast(pl.UInt8))
        return frame.with_columns(pl.col(name).cast(pl.String) for name in columns)

    def place(self, row: int) -> str:
        """Return file and number of a row, counted from 1, for messages.

        Args:
            row: number of rows before it.
        """
        return f"{self.name}, row {row + 1}"


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
        return TextTable(_unpacked(path, work), schema, path)
    return TextTable(path, schema)


def _unpacked(path: Path, work: Path) -> Path:
    target = work / f"{address([str(path.absolute())])}-{path.stem}"
    if not target.exists():
        work.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_write(target) as temporary, gzip.open(path) as source, open(temporary, "wb") as out:
                shutil.copyfileobj(source, out, SCAN_BYTES)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
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


def _count_lines(data: bytes, separator: str, quoted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Count the columns of each line by their separators, of those outside of quotes, and its quotes if they count."""
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == 10)
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(array))
    separators = np.flatnonzero(array == ord(separator))
    quotes = np.flatnonzero(array == ord('"')) if quoted else np.empty(0, np.int64)
    if len(quotes):
        separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
    widths = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    return widths, np.diff(np.searchsorted(quotes, ends), prepend=0)
