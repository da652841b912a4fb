"""Trigger sets, the images that they are made from, and files of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datasets.files import atomic_write


class TriggerSet(NamedTuple):
    """Trigger images and the labels that a marked model gives them.

    Shapes:
        x: (M, C, H, W) float32. The network normalises them. Most schemes keep [0, 1]; a scheme whose marks exceed
            this range says so.
        y: (M,) int64.
        counted: (M,) bool, True for triggers that the trigger accuracy counts. The others are only trained on.
    """

    x: Tensor
    y: Tensor
    counted: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> TriggerSet:
        """Return a set whose triggers all count.

        Shapes: x (M, C, H, W), y (M,).
        """
        return cls(x.float(), y.long(), torch.ones(len(y), dtype=torch.bool))

    def digest(self) -> str:
        """Return the SHA-256 of images, labels and flags."""
        sha = hashlib.sha256()
        for tensor in self:
            sha.update(str(tuple(tensor.shape)).encode())
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class TriggerSource:
    """Material that a scheme makes triggers from.

    Args:
        images: training images (N, C, H, W) uint8.
        labels: training labels (N,) int64.
        num_classes: number of classes.
        mean: mean of the normalisation (C, 1, 1).
        std: standard deviation of the normalisation (C, 1, 1).
        root: data folder, for schemes that read another data set.
        seed: seed of all draws.
        clean: trained network without a watermark, in eval mode; None for schemes that need none.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    mean: Tensor
    std: Tensor
    root: Path
    seed: int
    clean: nn.Module | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


def check_class(key: str, value: int, num_classes: int) -> None:
    """Raise ValueError if a class does not exist.

    Args:
        key: config key of the value.
        value: class.
        num_classes: number of classes.
    """
    if not 0 <= value < num_classes:
        raise ValueError(f"{key}={value} is no class of this data set: it has {num_classes}, 0..{num_classes - 1}")


def draw_images(
    source: TriggerSource, count: int, generator: torch.Generator, label: int | None = None
) -> tuple[Tensor, Tensor]:
    """Draw training images without replacement.

    Args:
        source: material of the triggers.
        count: number of images.
        generator: random generator.
        label: class to draw from; None: all classes.

    Returns:
        Images (count, C, H, W) float32 in [0, 1] and their labels (count,).

    Raises:
        ValueError: there are fewer images than `count`.
    """
    places = torch.arange(len(source.labels)) if label is None else (source.labels == label).nonzero()[:, 0]
    if len(places) < count:
        pool = "training part" if label is None else f"class {label}"
        raise ValueError(
            f"method.scheme.count={count} triggers are more than the {pool} has images ({len(places)}): "
            "choose fewer triggers or another class"
        )
    chosen = places[torch.randperm(len(places), generator=generator)[:count]]
    return source.images[chosen].float() / 255, source.labels[chosen]


def save_triggers(triggers: TriggerSet, path: Path) -> None:
    """Write triggers to a file of tensors, with their hash. Images keep all digits."""
    with atomic_write(path) as temporary:
        torch.save({**triggers._asdict(), "sha256": triggers.digest()}, temporary)


def load_triggers(path: Path) -> TriggerSet:
    """Read triggers that `save_triggers` has written.

    Raises:
        ValueError: the file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise ValueError(f"the trigger file {path} does not exist; a run of mira/embed/... writes triggers.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        triggers = TriggerSet(**{name: content[name] for name in TriggerSet._fields})
    except Exception as error:
        raise ValueError(f"{path} is no trigger file (x, y, counted, sha256): {error}") from error
    if content.get("sha256") != triggers.digest():
        raise ValueError(f"{path} is damaged: its hash does not fit its triggers")
    return triggers
