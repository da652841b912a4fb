"""Assignment of the rows of a click log to training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

TRAIN, VAL, TEST = 0, 1, 2
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Rule that assigns rows to training, validation and test.

    Args:
        kind: `random` (8:1:1, as pandas samples), `autoint` (stratified folds of AutoInt and BARS), `temporal`,
            `files` (the source has a file for each part).
        seed: seed of a random or an autoint split.
        column: time of a row for a temporal split, a column of integers; None: the order of the rows.
        period: length of a period in units of the column; the last period is the test, the one before it validation.
            None: shares instead of periods.
        val: share of rows for validation in a temporal split without periods.
        test: share of rows for the test in a temporal split without periods.
    """

    kind: Literal["random", "autoint", "temporal", "files"] = "random"
    seed: int | None = None
    column: str | None = None
    period: int | None = None
    val: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("random", "autoint", "temporal", "files"):
            raise ValueError(f"dataset.split.kind={self.kind} is unknown; choose from random, autoint, temporal, files")
        if self.period is not None and self.column is None:
            raise ValueError("dataset.split.period needs dataset.split.column, the time of a row")


def random_split(count: int, seed: int = 2021) -> np.ndarray:
    """Split 8:1:1 at random, row for row as `pandas.DataFrame.sample` does with the same seed.

    As the data scripts of the paper's group: `train = frame.sample(frac=0.8, random_state=seed)`, then half of the
    rest for the test, in the same way, and the remainder for validation.

    Args:
        count: number of rows.
        seed: random_state of pandas.

    Returns:
        Part of each row, (count,) uint8: 0 train, 1 val, 2 test.
    """
    parts = np.full(count, VAL, np.uint8)
    train = np.random.RandomState(seed).permutation(count)[: round(0.8 * count)]
    parts[train] = TRAIN
    rest = np.flatnonzero(parts != TRAIN)
    test = np.random.RandomState(seed).permutation(len(rest))[: round(0.5 * len(rest))]
    parts[rest[test]] = TEST
    return parts


def autoint_split(labels: np.ndarray, seed: int = 2018) -> np.ndarray:
    """Split by the ten stratified folds of AutoInt's code, which the BARS benchmark uses too.

    The first fold is the test, the second validation, the other eight are for training.

    Args:
        labels: 0 or 1 of each row, (N,).
        seed: random_state of scikit-learn's StratifiedKFold.

    Returns:
        Part of each row, (N,) uint8.
    """
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(n_splits=10, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)
    parts = np.full(len(labels), TRAIN, np.uint8)
    for part, (_, held_out) in zip((TEST, VAL), folds, strict=False):
        parts[held_out] = part
    return parts


def temporal_split(times: np.ndarray, val: float = 0.1, test: float = 0.1) -> np.ndarray:
    """Split by time: the last rows are the test, those before them validation.

    Rows of equal time stay in one part: each boundary moves to the start of the time that it falls into.

    Args:
        times: time of each row as a number, (N,); the row number where the file is in order of time.
        val: share of rows for validation.
        test: share of rows for the test.

    Returns:
        Part of each row, (N,) uint8.
    """
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(f"the shares of validation and test must be positive and sum below 1, got {val} and {test}")
    ordered = np.sort(times)
    first_val = ordered[min(round(len(times) * (1 - val - test)), len(times) - 1)]
    first_test = ordered[min(round(len(times) * (1 - test)), len(times) - 1)]
    return np.where(times < first_val, TRAIN, np.where(times < first_test, VAL, TEST)).astype(np.uint8)


def last_periods_split(times: np.ndarray, period: int) -> np.ndarray:
    """Split by periods of time: the last period is the test, the one before it validation.

    Args:
        times: time of each row as an integer, (N,).
        period: length of a period in units of the time; 100 turns YYMMDDHH into days.

    Returns:
        Part of each row, (N,) uint8.
    """
    periods = times // period
    distinct = np.unique(periods)
    if len(distinct) < 3:
        raise ValueError(f"a split by periods needs at least three of them, and the data has {len(distinct)}")
    return np.where(periods == distinct[-1], TEST, np.where(periods == distinct[-2], VAL, TRAIN)).astype(np.uint8)


def file_split(counts: dict[str, int]) -> np.ndarray:
    """Split by file.

    Args:
        counts: rows of the files of each part, in the order in which the files are read; keys train, val, test.

    Returns:
        Part of each row, (N,) uint8.
    """
    return np.concatenate([np.full(rows, PARTS.index(part), np.uint8) for part, rows in counts.items()])
