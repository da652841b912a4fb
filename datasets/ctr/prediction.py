"""Predictions for click logs in files: a CSV with the probability of a click for each row."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datasets.ctr.prepare import load_vocabularies
from datasets.ctr.rows import categories
from datasets.ctr.schema import Schema
from datasets.ctr.tables import Table, open_table
from datasets.ctr.vocabulary import distinct_values, encode
from datasets.files import atomic_write
from datasets.prediction import unique_names
from datasets.progress import track

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)


def predict_clicks(paths: list[Path], out: Path, module: Any, data: Any) -> list[Path]:
    """Write `<name>.csv` for each table: a row for each of its rows, in their order.

    Tables of one name get the names of their folders before it.

    Columns: row (counted from 1), label (if the file has it) and probability of a click. Files have the columns of the
    training data; the label may be missing. Values without an id of their own take the id of rare values, and their
    share in each field is logged.

    Args:
        paths: tables: text, gzip or parquet.
        out: folder of the CSV files.
        module: method, a function from ids (B, n) int32 to logits (B,).
        data: DataModule that the network was trained on.

    Raises:
        ValueError: a file lacks a column.
        CorruptData: a row is not what the schema says.
    """
    plan = data.plan()
    vocabularies = load_vocabularies(plan)
    written: list[Path] = []
    for path, name in unique_names(paths, lambda file: file.name.partition(".")[0]).items():
        target = out / f"{name}.csv"
        with tempfile.TemporaryDirectory() as work, atomic_write(target) as temporary, open(temporary, "wb") as file:
            table = open_table(path, schema_of(path, plan.schema, Path(work)), Path(work))
            for number, frame in enumerate(_blocks(table, vocabularies, module, data)):
                frame.write_csv(file, include_header=number == 0, float_precision=6)
        written.append(target)
    return written


def schema_of(path: Path, schema: Schema, work: Path) -> Schema:
    """Return the schema of a file, without a label if the file has none.

    Args:
        path: table.
        schema: schema of the training data.
        work: folder where a compressed file is unpacked to.
    """
    columns = None if schema.columns is None else tuple(c for c in schema.columns if c != schema.label)
    bare = replace(schema, label=None, columns=columns)
    labelled = schema.label in names_of(open_table(path, replace(bare, columns=schema.columns), work))
    return schema if labelled else bare


def names_of(table: Table) -> list[str]:
    """Return the names of a table's columns; without a header, only if its first line is as wide as they are."""
    schema, columns = table.schema, table.columns
    if schema.columns is None or table.path.suffix == ".parquet":
        return columns
    with open(table.path, encoding="utf-8", errors="replace") as file:
        width = file.readline().count(schema.separator) + 1
    return columns if width == len(columns) else []


def _blocks(table: Table, vocabularies: Mapping[str, pl.DataFrame], module: Any, data: Any) -> Iterator[pl.DataFrame]:
    import polars as pl

    unseen, rows = np.zeros(len(vocabularies), np.int64), 0
    rare = np.cumsum([vocabulary.height + 1 for vocabulary in vocabularies.values()]) - 1  # last id of each field
    for block in track(table.blocks(data.block_bytes), f"predicted blocks of {table.name.name}"):
        frame = table.read(block)
        ids = encode(map(distinct_values, categories(table, block, frame)), vocabularies.values())
        unseen += (ids == rare).sum(0)
        logits = torch.cat([module(part).cpu() for part in torch.from_numpy(ids).split(data.eval_batch_size)])
        columns: dict[str, Any] = {"row": np.arange(block.first_row + 1, block.first_row + block.rows + 1)}
        if table.schema.label is not None:
            columns["label"] = frame[table.schema.label]
        rows += block.rows
        yield pl.DataFrame(columns | {"probability": logits.double().sigmoid().numpy()})
    shares = {name: n / rows for name, n in zip(vocabularies, unseen, strict=True) if n}
    if shares:
        told = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
        log.info("%s: values that are rare or were not seen in training: %s", table.name.name, told)
