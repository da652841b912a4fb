"""DataModules of sets too large for memory: files are read when a batch needs them, and some batches ahead.

The batches are those of the loaders of `loaders` over the same shapes in memory, to the last bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.shapes import shapenet_format as fmt
from datasets.shapes.datamodules import Reader, ShapeNet, StoredShapes, check_same_shapes
from datasets.shapes.loaders import EvalLoader, TrainLoader, _Loader
from datasets.shapes.shape_set import Selection, ShapeBatch, ShapeSet
from datasets.shapes.shapenet_format import Array

AHEAD = 2  # batches that are read ahead
Fetch = Callable[[Sequence[int]], ShapeSet]


@dataclass
class DiskShapeSet(ShapeSet):
    """N shapes on disk: names and categories of all, tensors of the first shape alone.

    Args:
        fetch: function from places to a ShapeSet of these shapes, on the CPU.
    """

    fetch: Fetch | None = None


class _FromDisk(_Loader):
    """Loader mixin for a `DiskShapeSet`: a process reads its share of every batch."""

    in_memory = False
    shapes: DiskShapeSet

    def __iter__(self) -> Iterator[ShapeBatch]:
        return prefetch(super().__iter__())  # type: ignore[misc]

    def select(self, places: Tensor) -> Selection:
        """Read the shapes at `places` (B,)."""
        assert self.shapes.fetch is not None
        shapes = self.shapes.fetch(places.tolist()).to(self.device)
        return Selection(shapes, torch.arange(len(places), device=self.device))


class TrainFromDisk(_FromDisk, TrainLoader):
    """A `TrainLoader` of shapes on disk. With `equal`, a shape without points inside is reported when it is read."""


class EvalFromDisk(_FromDisk, EvalLoader):
    """An `EvalLoader` of shapes on disk."""


class StreamedShapes(StoredShapes):
    """A set in the format of `shapenet_format`, read batch by batch. Yields what `ShapeDataModule` says.

    `setup` reads the lists and one shape of each part; damaged files are reported when they are read. The arguments are
    those of `StoredShapes`; `workers` is the number of threads that read.
    """

    train_loader, eval_loader = TrainFromDisk, EvalFromDisk

    def setup(self, stage: str | None = None) -> None:
        """Read the lists and one shape of each part."""
        if self.parts:
            return
        super().setup(stage)
        if self.sampling == "surface":
            train = self.parts["train"]
            self.parts["train"] = replace(train, fetch=self._fetcher(train, self._read_near))  # type: ignore[call-arg]

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        """Read the first shape of a part."""
        first = super().read(part, categories, limit)
        if not len(first):
            return first
        kept = self.stored_points if part == "train" else None
        fetch = self._fetcher(first, lambda model: self._read_model(model, kept))
        return DiskShapeSet(**vars(first), fetch=fetch)

    def _read_near(self, model: Path) -> dict[str, Array]:
        points, occupancies = fmt.read_points(model / fmt.NEAR_POINTS)
        return self._read_model(model, self.stored_points) | {"points": points, "occupancies": occupancies}

    def _stack(self, models: Sequence[Path], read: Reader) -> dict[str, Tensor]:
        """Read the first model alone."""
        return super()._stack(models[:1], read)

    def _fetcher(self, first: ShapeSet, read: Reader) -> Fetch:
        """Return a function that reads shapes.

        Args:
            first: names of all shapes, and the tensors of the first one, whose shapes the others must have.
            read: function from the folder of a model to its arrays.

        Returns:
            `DiskShapeSet.fetch`; it raises CorruptData and MissingData.
        """
        expected = {key: value.numpy()[0] for key, value in first.tensors().items()}

        def fetch(places: Sequence[int]) -> ShapeSet:
            models = [self.set_folder / first.names[place] for place in places]
            with ThreadPoolExecutor(max(self.workers, 1)) as pool:
                arrays = list(pool.map(read, models))
            for model, own in zip(models, arrays, strict=True):
                check_same_shapes(self.set_folder / first.names[0], expected, model, own)
            return ShapeSet(
                names=[first.names[place] for place in places],
                categories=[first.categories[place] for place in places],
                **{key: torch.from_numpy(np.stack([own[key] for own in arrays])) for key in arrays[0]},
            )

        return fetch


class StreamedShapeNet(StreamedShapes, ShapeNet):
    """13 categories of ShapeNet, read batch by batch: with all images it would take 140 GB of memory."""


def prefetch(batches: Iterator[ShapeBatch], count: int = AHEAD) -> Iterator[ShapeBatch]:
    """Yield the batches, which a thread makes `count` of them before they are needed."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, batches, None) for _ in range(count))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch
