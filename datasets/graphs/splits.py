"""Ten-fold cross-validation as graph classification papers do it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy

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


def published_split(path: Path, fold: int) -> dict[str, Tensor]:
    """One outer fold of a split file of Errica et al. (JSON: a list of {test, model_selection: [{train, validation}]})."""
    folds = json.loads(path.read_text())
    inner = folds[fold]["model_selection"][0]
    parts = {"train": inner["train"], "val": inner["validation"], "test": folds[fold]["test"]}
    return {name: from_numpy(np.array(index)) for name, index in parts.items()}


def _fold(labels: Tensor, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import StratifiedKFold

    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold must lie in 0..{FOLDS - 1}, got {fold}")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(labels.numel()), labels.numpy()))[fold]
