"""Wrong labels on purpose: transition matrices, labels drawn by them, and files of noisy labels.

A matrix is (K, K) float64; row y is the distribution of the noisy label of an image of class y.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.download import CorruptData, missing

# Which class passes for another in CIFAR-10: truck as automobile, bird as airplane, deer as horse, cat and dog as each
# other (Patrini et al. 2017).
CIFAR10_CONFUSIONS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

# The super-class of each class of CIFAR-100, both in alphabetical order.
CIFAR100_COARSE = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)

KINDS = {
    "symmetric": "with probability `rate` a label drawn from all classes, its own among them (Meta-Weight-Net's unif)",
    "symmetric_exact": "int(rate N) images of all get a label drawn from all classes (DivideMix)",
    "symmetric_balanced": "int(rate n) images of each class get labels in equal shares of all classes (MLC's type 1)",
    "symmetric_exclusive": "with probability `rate` a label drawn from the other classes (Co-teaching, MLC's type 2)",
    "flip": "with probability `rate` the label of one other class, the same for all images of a class",
    "flip2": "as flip, but one of two other classes, `rate` / 2 each",
    "asymmetric": "the class that it passes for: where classes are named for that (CIFAR-10), int(rate N) images of "
    "all, of which those in other classes stay (DivideMix); where super-classes are, with probability `rate` the "
    "next class in the super-class, in a circle (CIFAR-100)",
    "hierarchical": "with probability `rate` a label drawn from the other classes of the super-class",
}
PAIRS_SEED = 1  # of the classes that flip and flip2 go to: Meta-Weight-Net's, the same for every seed of the labels


def check_noise(kind: str, rate: float) -> None:
    """Raises ValueError, which names the key, where the kind is unknown or the rate lies outside [0, 1]."""
    if kind not in KINDS:
        raise ValueError(f"dataset.noise.kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise ValueError(f"dataset.noise.rate must be a number in [0, 1], got {rate!r}")


def transition(
    kind: str,
    rate: float,
    num_classes: int,
    coarse: Sequence[int] | None = None,
    confusions: Mapping[int, int] | None = None,
) -> np.ndarray:
    """(K, K) float64, rows sum to 1: how often class y gets label z, of the kinds in `KINDS`.

    For kinds that draw a number of images and not each one on its own, it is what they do on average.

    Args:
        coarse: (K,) super-class of each class. confusions: class -> the class that it passes for.

    Raises ValueError: bad kind or rate, too few classes, a kind that needs `coarse` or `confusions` without them.
    """
    check_noise(kind, rate)
    least = 3 if kind == "flip2" else 2
    if num_classes < least:
        raise ValueError(f"dataset.noise.kind={kind} needs {least} classes or more, this set has {num_classes}")
    changed = np.zeros((num_classes, num_classes))  # rows sum to 1: where the share `rate` goes
    for label, targets in enumerate(_targets(kind, num_classes, coarse, confusions)):
        changed[label, targets] = 1 / len(targets)
    return rate * changed + (1 - rate) * np.eye(num_classes)


def _targets(
    kind: str, num_classes: int, coarse: Sequence[int] | None, confusions: Mapping[int, int] | None
) -> list[Sequence[int] | np.ndarray]:
    """For each class, the classes that its changed labels are of, in equal shares."""
    classes = np.arange(num_classes)
    others = [classes[classes != label] for label in classes]
    if kind == "symmetric_exclusive":
        return others
    if kind.startswith("symmetric"):
        return [classes] * num_classes
    if kind in ("flip", "flip2"):
        random = np.random.RandomState(PAIRS_SEED)
        if kind == "flip":
            return [[random.choice(rest)] for rest in others]
        return [random.choice(rest, 2, replace=False) for rest in others]
    if kind == "asymmetric" and confusions is not None:
        return [[confusions.get(label, label)] for label in range(num_classes)]
    if coarse is None:
        raise ValueError(f"dataset.noise.kind={kind} is not defined for this set: its classes are in no such relation")
    if len(coarse) != num_classes:
        raise ValueError(f"{len(coarse)} super-classes are given for {num_classes} classes")
    siblings = [classes[np.asarray(coarse) == group] for group in coarse]
    if kind == "asymmetric":
        return [[np.roll(group, -1)[group == label][0]] for label, group in enumerate(siblings)]
    return [group[group != label] if len(group) > 1 else group for label, group in enumerate(siblings)]


def draw(labels: np.ndarray, matrix: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """(N,) classes, (K, K) -> (N,) int64: each drawn by its own row.

    Takes one number of `random` an image, and so gives what `random.choice(K, p=matrix[label])` gives image by image.
    """
    below = matrix.cumsum(axis=1)
    below /= below[:, -1:]
    chance = random.random_sample(len(labels))
    drawn = np.empty(len(labels), dtype=np.int64)
    for label, row in enumerate(below):
        members = labels == label
        drawn[members] = row.searchsorted(chance[members], side="right")
    return drawn


def corrupt(
    labels: Tensor,
    kind: str,
    rate: float,
    num_classes: int,
    seed: int,
    coarse: Sequence[int] | None = None,
    confusions: Mapping[int, int] | None = None,
) -> Tensor:
    """(N,) int64 classes 0..K-1 -> (N,) int64 noisy ones, the same for the same arguments on every machine.

    Args:
        kind: of `KINDS`. rate: in [0, 1]: of the images that are given a new label, which for most symmetric kinds may
            be the old one. seed: of which images get which label; not of the classes that flips go to.
        coarse, confusions: as `transition` has them.

    Raises what `transition` raises.
    """
    matrix = transition(kind, rate, num_classes, coarse, confusions)
    clean, random = labels.numpy(), np.random.RandomState(seed)
    if kind == "symmetric_exact" or (kind == "asymmetric" and confusions is not None):
        chosen = random.permutation(len(clean))[: int(rate * len(clean))]
        noisy = clean.copy()
        noisy[chosen] = draw(clean[chosen], transition(kind, 1.0, num_classes, coarse, confusions), random)
    elif kind == "symmetric_balanced":
        noisy = _balanced(clean, rate, num_classes, random)
    else:
        noisy = draw(clean, matrix, random)
    return torch.from_numpy(noisy)


def _balanced(clean: np.ndarray, rate: float, num_classes: int, random: np.random.RandomState) -> np.ndarray:
    """(N,) -> (N,): of each class, the chosen images get every label equally often, or once more by chance."""
    noisy = clean.copy()
    for label in range(num_classes):
        members = random.permutation(np.flatnonzero(clean == label))
        chosen = members[: int(rate * len(members))]
        noisy[chosen] = random.permutation(np.resize(random.permutation(num_classes), len(chosen)))
    return noisy


def read_labels(path: Path, count: int, num_classes: int, root: Path) -> Tensor:
    """(count,) int64 out of a JSON list of classes, as DivideMix writes them, in the order of the images.

    Raises MissingData; CorruptData, which names the key, where it is no such list, of another length, or has labels
    outside 0..K-1.
    """
    if not path.is_file():
        raise missing("the file of noisy labels, dataset.noise_file,", [path], None, root)
    said = f"dataset.noise_file: {path}"
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptData(f"{said} is no JSON: {error}") from error
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise CorruptData(f"{said} is no list of whole numbers")
    if len(labels) != count:
        raise CorruptData(f"{said} has {len(labels)} labels, the training part has {count} images")
    if outside := [label for label in labels if not 0 <= label < num_classes]:
        raise CorruptData(f"{said} has the label {outside[0]}, expected 0..{num_classes - 1}")
    return torch.tensor(labels, dtype=torch.long)


def write_labels(path: Path, labels: Tensor) -> None:
    """(N,) int64 to a file that `read_labels` reads, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(labels.tolist()))
    os.replace(part, path)
