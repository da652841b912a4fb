"""Label noise on purpose: transition matrices, noisy labels drawn from them, and files of noisy labels.

A transition matrix is (K, K) float64; row y is the distribution of the noisy label of an image of class y.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.checks import check_choice, check_fraction, check_seed
from datasets.download import CorruptData, missing

# Confused class of some classes of CIFAR-10: truck as automobile, bird as airplane, deer as horse, cat and dog as each
# other (Patrini et al. 2017).
CIFAR10_CONFUSIONS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

# Super-class of each class of CIFAR-100, both in alphabetical order.
CIFAR100_COARSE = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)

PAIRS_SEED = 1  # draws the target classes of flip and flip2; Meta-Weight-Net's, independent of `dataset.noise_seed`

Targets = list[np.ndarray]  # for each class, the classes that a noisy label is drawn from with equal probability


@dataclass(frozen=True)
class Classes:
    """Classes of a data set and their relations.

    Args:
        count: number of classes, K.
        coarse: (K,) super-class of each class, or None if the set defines none.
        confusions: class -> class that it is confused with, or None if the set defines none.
    """

    count: int
    coarse: Sequence[int] | None = None
    confusions: Mapping[int, int] | None = None

    def siblings(self, kind: str) -> list[np.ndarray]:
        """Return, for each class, the classes of its super-class, itself included, in ascending order.

        Raises:
            ValueError: the set defines no super-classes, or not one for each class.
        """
        if self.coarse is None:
            also = " or a confusion map" if kind == "asymmetric" else ""
            raise ValueError(
                f"dataset.noise.kind={kind} needs super-classes{also}, which this data set does not define; "
                "choose a symmetric kind, flip or flip2"
            )
        if len(self.coarse) != self.count:
            raise ValueError(f"{len(self.coarse)} super-classes are given for {self.count} classes")
        return [np.flatnonzero(np.asarray(self.coarse) == group) for group in self.coarse]


def _all_classes(classes: Classes) -> Targets:
    return [np.arange(classes.count)] * classes.count


def _other_classes(classes: Classes) -> Targets:
    everything = np.arange(classes.count)
    return [everything[everything != label] for label in everything]


def _one_other_class(classes: Classes) -> Targets:
    random = np.random.RandomState(PAIRS_SEED)
    return [np.array([random.choice(others)]) for others in _other_classes(classes)]


def _two_other_classes(classes: Classes) -> Targets:
    random = np.random.RandomState(PAIRS_SEED)
    return [random.choice(others, 2, replace=False) for others in _other_classes(classes)]


def _confused_class(classes: Classes) -> Targets:
    confusions = classes.confusions or {}
    return [np.array([confusions.get(label, label)]) for label in range(classes.count)]


def _next_sibling(classes: Classes) -> Targets:
    """Return the next class of the super-class, the first one after the last."""
    siblings = enumerate(classes.siblings("asymmetric"))
    return [np.roll(group, -1)[group == label] for label, group in siblings]


def _other_siblings(classes: Classes) -> Targets:
    """Return the other classes of the super-class; the class itself where it is the only one."""
    siblings = enumerate(classes.siblings("hierarchical"))
    return [group[group != label] if len(group) > 1 else group for label, group in siblings]


def _matrix(targets: Targets, rate: float) -> np.ndarray:
    changed = np.zeros((len(targets), len(targets)))
    for label, others in enumerate(targets):
        changed[label, others] = 1 / len(others)
    return rate * changed + (1 - rate) * np.eye(len(targets))


def _each_image(clean: np.ndarray, targets: Targets, rate: float, random: np.random.RandomState) -> np.ndarray:
    """Draw a new label for each image independently, with probability `rate`."""
    return draw_labels(clean, _matrix(targets, rate), random)


def _share_of_all(clean: np.ndarray, targets: Targets, rate: float, random: np.random.RandomState) -> np.ndarray:
    """Draw new labels for exactly int(rate N) of the N images."""
    chosen = random.permutation(len(clean))[: int(rate * len(clean))]
    noisy = clean.copy()
    noisy[chosen] = draw_labels(clean[chosen], _matrix(targets, 1.0), random)
    return noisy


def _share_of_each_class(clean: np.ndarray, targets: Targets, rate: float, random: np.random.RandomState) -> np.ndarray:
    """Give int(rate n) of the n images of each class the labels of all classes in equal shares, rounded by chance."""
    noisy = clean.copy()
    for label in range(len(targets)):
        members = random.permutation(np.flatnonzero(clean == label))
        chosen = members[: int(rate * len(members))]
        noisy[chosen] = random.permutation(np.resize(random.permutation(len(targets)), len(chosen)))
    return noisy


@dataclass(frozen=True)
class NoiseKind:
    """A kind of label noise.

    Args:
        description: one sentence for readers.
        targets: classes -> target classes of each class.
        assign: clean labels (N,), targets, rate, random numbers -> noisy labels (N,).
        min_classes: smallest number of classes for which the kind is defined.
    """

    description: str
    targets: Callable[[Classes], Targets]
    assign: Callable[[np.ndarray, Targets, float, np.random.RandomState], np.ndarray] = _each_image
    min_classes: int = 2


KINDS = {
    "symmetric": NoiseKind(
        "with probability `rate` a label drawn from all classes, the true one included (Meta-Weight-Net's unif)",
        _all_classes,
    ),
    "symmetric_exact": NoiseKind(
        "int(rate N) of all images get a label drawn from all classes (DivideMix)", _all_classes, _share_of_all
    ),
    "symmetric_balanced": NoiseKind(
        "int(rate n) images of each class get labels of all classes in equal shares (MLC's type 1)",
        _all_classes,
        _share_of_each_class,
    ),
    "symmetric_exclusive": NoiseKind(
        "with probability `rate` a label drawn from the other classes (Co-teaching, MLC's type 2)", _other_classes
    ),
    "flip": NoiseKind(
        "with probability `rate` the label of one other class, the same for all images of a class", _one_other_class
    ),
    "flip2": NoiseKind(
        "with probability `rate` the label of one of two other classes, `rate` / 2 each",
        _two_other_classes,
        min_classes=3,
    ),
    "asymmetric": NoiseKind(
        "with probability `rate` the next class of the super-class, in a circle (CIFAR-100); in a set with a confusion "
        "map (CIFAR-10), int(rate N) of all images get the confused class, if theirs has one (DivideMix)",
        _next_sibling,
    ),
    "hierarchical": NoiseKind(
        "with probability `rate` a label drawn from the other classes of the super-class", _other_siblings
    ),
}
CONFUSIONS = NoiseKind("asymmetric, in a set with a confusion map", _confused_class, _share_of_all)


def check_noise(kind: str, rate: float) -> None:
    """Raise ValueError, which names the key, if the kind is unknown or the rate lies outside [0, 1]."""
    check_choice("dataset.noise.kind", kind, tuple(KINDS))
    if rate is None:
        raise ValueError("dataset.noise.rate is null; without label noise: dataset.noise=null")
    check_fraction("dataset.noise", rate=rate)


def _resolve(kind: str, rate: float, classes: Classes) -> tuple[NoiseKind, Targets]:
    """Return the noise kind and the target classes of each class. Raises as `transition_matrix` does."""
    check_noise(kind, rate)
    noise = CONFUSIONS if kind == "asymmetric" and classes.confusions is not None else KINDS[kind]
    if classes.count < noise.min_classes:
        raise ValueError(
            f"dataset.noise.kind={kind} needs {noise.min_classes} classes or more, this set has {classes.count}"
        )
    return noise, noise.targets(classes)


def transition_matrix(
    kind: str,
    rate: float,
    num_classes: int,
    coarse: Sequence[int] | None = None,
    confusions: Mapping[int, int] | None = None,
) -> np.ndarray:
    """Return the probability that an image of class y gets label z.

    For kinds that change a fixed number of images, it is the expected share.

    Args:
        kind: name in `KINDS`.
        rate: share of the images that are given a new label, in [0, 1].
        num_classes: number of classes, K.
        coarse: (K,) super-class of each class, or None.
        confusions: class -> class that it is confused with, or None.

    Returns:
        (K, K) float64; rows sum to 1.

    Raises:
        ValueError: unknown kind, rate outside [0, 1], too few classes, or a kind that needs `coarse` or `confusions`.
    """
    _, targets = _resolve(kind, rate, Classes(num_classes, coarse, confusions))
    return _matrix(targets, rate)


def draw_labels(labels: np.ndarray, matrix: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Draw a label for each image from the row of its class.

    One number of `random` is used per image, so the result equals that of `random.choice(K, p=matrix[label])` image
    by image.

    Args:
        labels: (N,) classes.
        matrix: (K, K) transition matrix.
        random: random numbers.

    Returns:
        (N,) int64 labels.
    """
    cumulative = matrix.cumsum(axis=1)
    cumulative /= cumulative[:, -1:]
    uniform = random.random_sample(len(labels))
    drawn = np.empty(len(labels), dtype=np.int64)
    for label, row in enumerate(cumulative):
        members = labels == label
        drawn[members] = row.searchsorted(uniform[members], side="right")
    return drawn


def add_label_noise(
    labels: Tensor,
    kind: str,
    rate: float,
    num_classes: int,
    seed: int,
    coarse: Sequence[int] | None = None,
    confusions: Mapping[int, int] | None = None,
) -> Tensor:
    """Return noisy labels: the same for the same arguments on every machine.

    Args:
        labels: (N,) int64 classes 0..K-1.
        kind: name in `KINDS`.
        rate: share of the images that are given a new label, in [0, 1]; with most symmetric kinds the new label may
            equal the old one.
        num_classes: number of classes, K.
        seed: decides which images get which label; the target classes of flip and flip2 do not depend on it.
        coarse: (K,) super-class of each class, or None.
        confusions: class -> class that it is confused with, or None.

    Returns:
        (N,) int64 labels.

    Raises:
        ValueError: as `transition_matrix`.
    """
    check_seed("dataset", noise_seed=seed)
    noise, targets = _resolve(kind, rate, Classes(num_classes, coarse, confusions))
    return torch.from_numpy(noise.assign(labels.numpy(), targets, rate, np.random.RandomState(seed)))


def read_labels(path: Path, count: int, num_classes: int, root: Path) -> Tensor:
    """Read training labels from a JSON list of classes in the order of the images, as DivideMix writes them.

    Args:
        path: the file.
        count: number of labels that it must have.
        num_classes: number of classes, K.
        root: data folder, for the message about a missing file.

    Returns:
        (count,) int64 labels.

    Raises:
        MissingData: there is no such file.
        CorruptData: it is no such list, has another length, or has labels outside 0..K-1.
    """
    if not path.is_file():
        raise missing("the file of noisy labels, dataset.noise_file,", [path], None, root)
    origin = f"dataset.noise_file: {path}"
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptData(f"{origin} is no JSON: {error}") from error
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise CorruptData(f"{origin} is no list of whole numbers")
    if len(labels) != count:
        raise CorruptData(f"{origin} has {len(labels)} labels, the training part has {count} images")
    if outside := [label for label in labels if not 0 <= label < num_classes]:
        raise CorruptData(f"{origin} has the label {outside[0]}, expected 0..{num_classes - 1}")
    return torch.tensor(labels, dtype=torch.long)
