"""Sets too large for memory: the files of a shape are read when a batch needs them, and some batches ahead.

Batches are those of the loaders of `loader.py` over the same shapes in memory, to the last bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.download import CorruptData
from datasets.shapes import layout
from datasets.shapes.base import in_turn
from datasets.shapes.loader import EvalLoader, InsideFirst, Sampling, ShapeBatch, ShapeSet, TrainLoader, take
from datasets.shapes.stored import ShapeNet, StoredShapes

AHEAD = 2  # batches


@dataclass
class Listed(ShapeSet):
    """N shapes on disk: names and categories are those of all, the tensors those of the first shape alone.

    fetch: places -> a ShapeSet of these shapes, on the CPU.
    """

    fetch: Callable[[Sequence[int]], ShapeSet] | None = None


class TrainFromDisk(TrainLoader):
    """A `TrainLoader` whose shapes are `Listed`; of every batch, a process reads its share."""

    def __init__(self, shapes: Listed, *args: Any, sampling: Sampling = "uniform", **kwargs: Any) -> None:
        super().__init__(shapes, *args, sampling="uniform", **kwargs)
        self.equal = sampling == "equal"  # where the points inside are is found batch by batch

    def __iter__(self) -> Iterator[ShapeBatch]:
        return ahead(super().__iter__())

    def _batch(self, places: Tensor, drawn: torch.Generator) -> ShapeBatch:
        share = slice(self.rank, None, self.world_size)
        index = places[share]
        rows = torch.zeros_like(places)
        rows[share] = torch.arange(len(index))
        held = copy(self)
        held.shapes = self.shapes.fetch(index.tolist()).to(self.device)
        held.inside = InsideFirst(held.shapes) if self.equal else None
        batch = TrainLoader._batch(held, rows, drawn)
        index = index.to(self.device)
        return batch._replace(index=index, inputs=index if self.inputs == "index" else batch.inputs)


class EvalFromDisk(EvalLoader):
    """An `EvalLoader` whose shapes are `Listed`."""

    def __iter__(self) -> Iterator[ShapeBatch]:
        return ahead(super().__iter__())

    def _shape(self, place: int) -> ShapeBatch:
        held, one = copy(self), self.shapes.fetch([place]).to(self.device)
        rows = {key: value.expand(place + 1, *value.shape[1:]) for key, value in one._tensors().items()}
        held.shapes = replace(one, **rows)  # the shape is in every row, and so at its place too
        return EvalLoader._shape(held, place)

    def cloud(self, shapes: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        first = torch.zeros_like(shapes)  # `take` would copy all the rows
        return take(self.shapes.surface[:1], first, index.to(self.device)) + noise.to(self.device)


class OnDisk(StoredShapes):
    """A set in the layout of `layout.py`, read batch by batch. Yields what `ShapeDataModule` says.

    Of the files, `setup` reads the lists and one shape of each part; what is damaged is told when it is reached.

    Args: as of `StoredShapes`; workers: threads that read.
    """

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

        def fetch(places: Sequence[int]) -> ShapeSet:
            models = [self.place / first.names[place] for place in places]
            with ThreadPoolExecutor(max(self.workers, 1)) as pool:
                found = list(pool.map(arrays, models))
            held = first._tensors()
            for model, kept in zip(models, found, strict=True):
                if odd := kept.keys() ^ held.keys():
                    one = self.place / first.names[0]
                    raise CorruptData(f"one of {one} and {model} has {', '.join(sorted(odd))}, the other has not")
                for key, value in kept.items():
                    like = held[key].numpy()[0]
                    if (value.shape, value.dtype) != (like.shape, like.dtype):
                        raise CorruptData(
                            f"{model} has {key} {value.dtype} {value.shape}, {self.place / first.names[0]} has "
                            f"{like.dtype} {like.shape}: a set must be of one size"
                        )
            return ShapeSet(
                names=[first.names[place] for place in places],
                categories=[first.categories[place] for place in places],
                **{key: torch.from_numpy(np.stack([kept[key] for kept in found])) for key in found[0]},
            )

        return fetch

    def train_dataloader(self) -> TrainFromDisk:
        return TrainFromDisk(
            self._on_device("train"),
            self.batch_size,
            self.points,
            self.inputs,
            sampling=self.sampling,
            surface_points=self.surface_points,
            image_crop=self.image_crop,
            iterations=self.iterations,
            seed=self.seed,
            **self.seen,
            **self._ranks(),
        )

    def _eval_loader(self, part: str) -> EvalFromDisk:
        shapes = self._on_device(part)
        places = in_turn(shapes.categories, self.limits[part])
        return EvalFromDisk(shapes, self.inputs, places=places, **self.seen, **self._ranks())


class ShapeNetOnDisk(OnDisk, ShapeNet):
    """13 categories of ShapeNet, read batch by batch: all of it with its pictures would take 140 GB of memory."""


def ahead(batches: Iterator[ShapeBatch], count: int = AHEAD) -> Iterator[ShapeBatch]:
    """The same batches, made by a thread, `count` of them before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, batches, None) for _ in range(count))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch
