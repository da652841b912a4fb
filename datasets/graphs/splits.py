"""Ten-fold cross-validation as papers on graph classification do it."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, from_numpy

from datasets.download import CorruptData

log = logging.getLogger(__name__)

FOLDS = 10
VAL_SHARE = 0.1  # of the training part, in `fair_split`


def xu_split(labels: Tensor, fold: int, seed: int) -> dict[str, Tensor]:
    """Split as Xu et al. 2019: train on nine folds and watch the tenth at every epoch.

    `val` and `test` are the SAME graphs. The folds are those of StratifiedKFold(10, shuffle=True, random_state=seed).

    Args:
        labels: (G,) int64 classes.
        fold: number of the fold that is held out, 0..9.
        seed: seed of the folds.

    Returns:
        Graphs of train, val and test, int64 each.

    Raises:
        ValueError: the fold does not exist, or there are too few graphs for ten stratified folds.
    """
    train, held_out = _fold(labels, fold, seed)
    return {"train": from_numpy(train), "val": from_numpy(held_out), "test": from_numpy(held_out)}


def fair_split(labels: Tensor, fold: int, seed: int) -> dict[str, Tensor]:
    """Split as Errica et al. 2020: a stratified tenth of the nine training folds selects the model.

    The outer folds are those of `xu_split`.

    Args:
        labels: (G,) int64 classes.
        fold: number of the fold that is the test part, 0..9.
        seed: seed of the folds and of the validation part.

    Returns:
        Graphs of train, val and test, int64 each.

    Raises:
        ValueError: as `xu_split`, or a class has fewer than two graphs to train on.
    """
    from sklearn.model_selection import train_test_split

    train, test = _fold(labels, fold, seed)
    counts = torch.bincount(labels[train], minlength=int(labels.max()) + 1)
    counts = counts[torch.bincount(labels) > 0]
    if int(counts.min()) < 2 or np.ceil(VAL_SHARE * len(train)) < len(counts):
        raise ValueError(
            f"dataset.protocol=fair needs two graphs or more of each class to train on, and one of each in a tenth of "
            f"them; fold {fold} has {len(train)} graphs of {len(counts)} classes, of the smallest {int(counts.min())}: "
            "choose dataset.protocol=xu"
        )
    train, val = train_test_split(train, test_size=VAL_SHARE, stratify=labels[train], random_state=seed)
    return {"train": from_numpy(np.sort(train)), "val": from_numpy(np.sort(val)), "test": from_numpy(test)}


def published_split(path: Path, fold: int, num_graphs: int) -> dict[str, Tensor]:
    """Read one outer fold of a split file of Errica et al.

    The file is JSON: a list of {test, model_selection: [{train, validation}]}.

    Args:
        path: the file.
        fold: number of the fold.
        num_graphs: number of graphs of the collection.

    Returns:
        Graphs of train, val and test, int64 each.

    Raises:
        CorruptData: the file has another form, or does not have each graph of the collection in exactly one part.
    """
    try:
        folds = json.loads(path.read_text())
        inner = folds[fold]["model_selection"][0]
        parts = {"train": inner["train"], "val": inner["validation"], "test": folds[fold]["test"]}
        for name, part in parts.items():
            if not isinstance(part, list) or not all(type(graph) is int for graph in part):
                raise ValueError(f"{name} is no list of whole numbers")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CorruptData(f"{path} is no split file with a fold {fold}: {type(error).__name__}: {error}") from error
    graphs = sorted(graph for part in parts.values() for graph in part)
    if graphs != list(range(num_graphs)):
        raise CorruptData(
            f"{path} does not fit the collection: fold {fold} must have each of its {num_graphs} graphs in one part, "
            f"from 0 to {num_graphs - 1}; it has {len(graphs)}, and the largest index is {max(graphs, default=None)}"
        )
    return {name: torch.tensor(part, dtype=torch.int64) for name, part in parts.items()}


def _fold(labels: Tensor, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the graphs of the nine training folds and of the one that is held out."""
    from sklearn.model_selection import StratifiedKFold

    if not 0 <= fold < FOLDS:
        raise ValueError(f"dataset.fold must lie in 0..{FOLDS - 1}, got {fold}")
    _check_counts(labels)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)  # said by us
        return list(folds.split(np.zeros(labels.numel()), labels.numpy()))[fold]


def _check_counts(labels: Tensor) -> None:
    """Raise ValueError if no class has a graph for each fold; warn if only some have."""
    counts = torch.bincount(labels)
    if int(counts.max()) < FOLDS:
        raise ValueError(
            f"the collection has {labels.numel()} graphs, {int(counts.max())} of the largest class: "
            f"too few for {FOLDS} stratified folds"
        )
    if scarce := [f"{label} ({count} graphs)" for label, count in enumerate(counts.tolist()) if 0 < count < FOLDS]:
        log.warning("some of the %d folds hold out no graph of class %s", FOLDS, ", ".join(scarce))
