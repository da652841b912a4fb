"""Ten-fold cross-validation as graph classification papers do it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, from_numpy

from datasets.download import CorruptData

FOLDS = 10


def xu_split(labels: Tensor, fold: int, seed: int) -> dict[str, Tensor]:
    """Xu et al. 2019: train on nine folds, watch the tenth at every epoch. `val` and `test` are the SAME graphs.

    The folds are those of StratifiedKFold(10, shuffle=True, random_state=seed).
    """
    train, held_out = _fold(labels, fold, seed)
    return {"train": from_numpy(train), "val": from_numpy(held_out), "test": from_numpy(held_out)}


def fair_split(labels: Tensor, fold: int, seed: int) -> dict[str, Tensor]:
    """Errica et al. 2020: the same outer folds; a stratified tenth of the training part selects the model (`val`)."""
    from sklearn.model_selection import train_test_split

    train, test = _fold(labels, fold, seed)
    train, val = train_test_split(train, test_size=0.1, stratify=labels[train], random_state=seed)
    return {"train": from_numpy(np.sort(train)), "val": from_numpy(np.sort(val)), "test": from_numpy(test)}


def published_split(path: Path, fold: int, num_graphs: int) -> dict[str, Tensor]:
    """One outer fold of a split file of Errica et al. (JSON: a list of {test, model_selection: [{train, validation}]}).

    Raises CorruptData where the file has another form, or does not have each graph of the collection in one part.
    """
    try:
        folds = json.loads(path.read_text())
        inner = folds[fold]["model_selection"][0]
        parts = {"train": inner["train"], "val": inner["validation"], "test": folds[fold]["test"]}
        index = {name: torch.tensor(part, dtype=torch.int64) for name, part in parts.items()}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CorruptData(f"{path} is no split file with a fold {fold}: {type(error).__name__}: {error}") from error
    graphs = torch.cat(list(index.values())).sort().values
    if not torch.equal(graphs, torch.arange(num_graphs)):
        largest = max(graphs.tolist(), default=None)
        raise CorruptData(
            f"{path} does not fit the collection: fold {fold} must have each of its {num_graphs} graphs in one part, "
            f"from 0 to {num_graphs - 1}; it has {graphs.numel()}, and the largest index is {largest}"
        )
    return index


def _fold(labels: Tensor, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import StratifiedKFold

    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold must lie in 0..{FOLDS - 1}, got {fold}")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(labels.numel()), labels.numpy()))[fold]
