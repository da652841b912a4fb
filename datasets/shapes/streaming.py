"""Sets too large for memory: the files of a shape are read when a batch needs them, and some batches ahead.

Batches are those of the loaders of `loader.py` over the same shapes in memory, to the last bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.shapes import layout
from datasets.shapes.loader import Chosen, EvalLoader, ShapeBatch, ShapeSet, TrainLoader
from datasets.shapes.stored import ShapeNet, StoredShapes, check_alike

AHEAD = 2  # batches


@dataclass
class Listed(ShapeSet):
    """N shapes on disk: names and categories are those of all, the tensors those of the first shape alone.

    fetch: places -> a ShapeSet of these shapes, on the CPU.
    """

    fetch: Callable[[Sequence[int]], ShapeSet] | None = None


class FromDisk:
    """A loader whose shapes are `Listed`; of every batch, a process reads its share."""

    held = False
    shapes: Listed
    device: torch.device

    def __iter__(self) -> Iterator[ShapeBatch]:
        return ahead(super().__iter__())

    def choose(self, places: Tensor) -> Chosen:
        return Chosen(self.shapes.fetch(places.tolist()).to(self.device), torch.arange(len(places), device=self.device))


class TrainFromDisk(FromDisk, TrainLoader):
    """A `TrainLoader` of shapes on disk. With `equal`, a shape without points inside is told when it is reached."""


class EvalFromDisk(FromDisk, EvalLoader):
    """An `EvalLoader` of shapes on disk."""


class OnDisk(StoredShapes):
    """A set in the layout of `layout.py`, read batch by batch. Yields what `ShapeDataModule` says.

    Of the files, `setup` reads the lists and one shape of each part; what is damaged is told when it is reached.

    Args: as of `StoredShapes`; workers: threads that read.
    """

    train_loader, eval_loader = TrainFromDisk, EvalFromDisk

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        super().setup(stage)
        if self.sampling == "surface":
            train = self.parts["train"]
            self.parts["train"] = replace(train, fetch=self._fetch(train, self._near))

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        first = super().read(part, categories, limit)
        if not len(first):
            return first
        kept = self.stored_points if part == "train" else None
        return Listed(**vars(first), fetch=self._fetch(first, lambda model: self._arrays(model, kept)))

    def _near(self, model: Path) -> dict[str, NDArray]:
        points, occupancies = layout.read_points(model / layout.NEAR)
        return self._arrays(model, self.stored_points) | {"points": points, "occupancies": occupancies}

    def _stacked(self, models: Sequence[Path], arrays: Callable[[Path], dict[str, NDArray]]) -> dict[str, Tensor]:
        """Of the first model alone."""
        return super()._stacked(models[:1], arrays)

    def _fetch(
        self, first: ShapeSet, arrays: Callable[[Path], dict[str, NDArray]]
    ) -> Callable[[Sequence[int]], ShapeSet]:
        """`Listed.fetch` of the shapes that `first` names; its tensors are what those of all must be like.

        arrays: of one model, by the name of the tensor. The function raises CorruptData and MissingData.
        """

        like = {key: value.numpy()[0] for key, value in first.tensors().items()}

        def fetch(places: Sequence[int]) -> ShapeSet:
            models = [self.place / first.names[place] for place in places]
            with ThreadPoolExecutor(max(self.workers, 1)) as pool:
                found = list(pool.map(arrays, models))
            for model, kept in zip(models, found, strict=True):
                check_alike(self.place / first.names[0], like, model, kept)
            return ShapeSet(
                names=[first.names[place] for place in places],
                categories=[first.categories[place] for place in places],
                **{key: torch.from_numpy(np.stack([kept[key] for kept in found])) for key in found[0]},
            )

        return fetch


class ShapeNetOnDisk(OnDisk, ShapeNet):
    """13 categories of ShapeNet, read batch by batch: all of it with its pictures would take 140 GB of memory."""


def ahead(batches: Iterator[ShapeBatch], count: int = AHEAD) -> Iterator[ShapeBatch]:
    """The same batches, made by a thread, `count` of them before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, batches, None) for _ in range(count))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch
