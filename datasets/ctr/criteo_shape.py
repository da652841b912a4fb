"""Generator of text files of Criteo's shape, to measure what the full data set would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.ctr.layouts import CRITEO_CATEGORICAL, CRITEO_NUMERIC
from datasets.ctr.transforms import import_polars
from datasets.files import atomic_write
from datasets.progress import track

if TYPE_CHECKING:
    import polars as pl

# Distinct values of C1 to C26 in the 45.8 million rows of the challenge.
CARDINALITIES = (
    *(1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194, 27, 14_992),
    *(5_461_306, 10, 5652, 2173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572),
)
BLOCK_ROWS = 500_000
MISSING_SHARE = 0.1


def write_criteo_shape(path: Path, rows: int, seed: int = 0) -> Path:
    """Write a file of the layout of Criteo's `train.txt` with random content.

    Categories follow a law whose density falls as 1/x over the cardinalities of the challenge, numbers are
    log-uniform, and a tenth of the values is missing. The label follows three of the categories.

    Args:
        path: file to write.
        rows: number of rows.
        seed: seed of everything that is drawn.
    """
    import_polars()
    generator = np.random.default_rng(seed)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        for start in track(range(0, rows, BLOCK_ROWS), "blocks written"):
            block = _block(generator, min(BLOCK_ROWS, rows - start))
            block.write_csv(file, include_header=False, separator="\t", quote_style="never")
    return path


def _block(generator: np.random.Generator, rows: int) -> pl.DataFrame:
    import polars as pl

    digits = pl.Series([f"{number:04x}" for number in range(1 << 16)])
    ranks = [_ranks(generator, rows, size) for size in CARDINALITIES]
    logits = -1.3 + ((ranks[0] % 7) - 3) * 0.2 + ((ranks[5] % 5) - 2) * 0.3 + ((ranks[0] + ranks[8]) % 3 - 1) * 0.4
    columns = {"label": pl.Series((generator.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8))}
    columns |= {name: pl.Series(_numbers(generator, rows)) for name in CRITEO_NUMERIC}
    columns |= {name: _hexadecimal(rank, digits) for name, rank in zip(CRITEO_CATEGORICAL, ranks, strict=True)}
    present = {name: pl.Series(generator.random(rows, np.float32) >= MISSING_SHARE) for name in columns}
    values = [pl.when(pl.lit(present[name])).then(pl.col(name)).alias(name) for name in columns if name != "label"]
    return pl.DataFrame(columns).with_columns(values)


def _numbers(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Numbers from 0 to 8102 whose logarithm is uniform."""
    return np.exp(generator.random(rows) * 9).astype(np.int64) - 1


def _ranks(generator: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Numbers from 0 to size - 1 whose logarithm is uniform: P(rank) falls as 1 / rank."""
    return np.minimum(np.exp(generator.random(rows) * np.log(size + 1)).astype(np.int64) - 1, size - 1)


def _hexadecimal(ranks: np.ndarray, digits: pl.Series) -> pl.Series:
    """Eight hexadecimal digits, distinct for distinct ranks: an odd factor permutes the numbers below 2^32."""
    mixed = (ranks.astype(np.uint64) * 2_654_435_761) % 2**32
    return digits.gather(mixed >> 16) + digits.gather(mixed & 0xFFFF)
