"""What all DataModules of solid shapes do: parts held in memory, and loaders over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pytorch_lightning import LightningDataModule
from torch import Tensor

from datasets.batching import ranks
from datasets.download import CorruptData
from datasets.shapes.loader import EvalLoader, Inputs, Sampling, ShapeSet, TrainLoader


class ShapeDataModule(LightningDataModule):
    """Yields `ShapeBatch`: points in a box somewhat larger than the unit cube with their occupancy, and inputs.

    Loaders: train (shuffled, points drawn anew), val and test (a shape a batch, with all stored points). After
    `setup`: `parts`, the ShapeSet of train, val and test; `categories`: names of those that were read.

    Args:
        inputs: what the encoder sees: `pointcloud`, `voxels`, `image`, `index` (of the training shape; with
            `train_as_test` alone), `none`.
        points: T, points of each shape in a training batch.
        sampling: `uniform` out of the stored ones; `equal`: half outside, half inside; `surface`: half of them near
            the surface (training only).
        surface_points: S, points on the true surface in a training batch.
        input_points, input_noise: of an input cloud: points, and standard deviation of the noise on each coordinate,
            in edges of the unit cube.
        image_size: pixels a side that images are resized to; None: as they are stored. image_crop: in training a
            random square of a picture is seen, of at least this share of its area; None: all of it.
        batch_size: shapes in a global batch of training. iterations: batches in an epoch, shapes in random order
            again and again; None: once through all.
        categories: which to read, by name; None: all.
        limit_train, limit_val, limit_test: so many shapes at most, those that come first when categories take turns.
        train_as_test: the training shapes take the place of val and test: what can be represented at all.
        root: the data folder. seed: of shuffling and drawing. workers: unused, the data is in memory.

    Raises MissingData, CorruptData (setup), ValueError (bad arguments).
    """

    task = "shape-reconstruction"
    train_loader, eval_loader = TrainLoader, EvalLoader

    def __init__(
        self,
        inputs: Inputs = "pointcloud",
        points: int = 2048,
        sampling: Sampling = "uniform",
        surface_points: int = 1024,
        input_points: int = 300,
        input_noise: float = 0.005,
        image_size: int | None = 224,
        image_crop: float | None = None,
        batch_size: int = 64,
        iterations: int | None = None,
        categories: Sequence[str] | None = None,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        train_as_test: bool = False,
        root: str | Path = "data",
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        positive = {
            "points": points,
            "surface_points": surface_points,
            "input_points": input_points,
            "image_size": image_size,
            "batch_size": batch_size,
            "iterations": iterations,
            "limit_train": limit_train,
            "limit_val": limit_val,
            "limit_test": limit_test,
        }
        for name, value in positive.items():
            if value is not None and value < 1:
                raise ValueError(f"dataset.{name} must be positive, got {value}")
        if input_noise < 0:
            raise ValueError(f"dataset.input_noise must not be negative, got {input_noise}")
        if image_crop is not None and not 0 < image_crop <= 1:
            raise ValueError(f"dataset.image_crop must be in (0, 1], got {image_crop}")
        for name, value, known in (("inputs", inputs, Inputs), ("sampling", sampling, Sampling)):
            if value not in get_args(known):
                raise ValueError(f"dataset.{name} must be one of {', '.join(get_args(known))}; got {value}")
        if inputs == "index" and not train_as_test:
            raise ValueError("dataset.inputs=index knows the training shapes alone: dataset.train_as_test=true")
        if categories is not None and (not categories or len(set(categories)) < len(categories)):
            raise ValueError(f"dataset.categories must name some, each once, got {list(categories)}")
        self.inputs, self.points, self.sampling, self.surface_points = inputs, points, sampling, surface_points
        self.seen = {"input_points": input_points, "input_noise": input_noise, "image_size": image_size}
        self.image_crop, self.batch_size, self.iterations = image_crop, batch_size, iterations
        self.chosen = None if categories is None else list(categories)
        self.limits = {"train": limit_train, "val": limit_val, "test": limit_test}
        self.train_as_test = train_as_test
        self.root, self.seed = Path(root), seed
        self.parts: dict[str, ShapeSet] = {}

    def known_categories(self) -> list[str]:
        """Names of all categories, in their order; a subclass says which."""
        raise TypeError(f"{type(self).__name__} does not say which categories it has")

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        """The shapes of a part that `limit` leaves (see `in_turn`); a subclass says how."""
        raise TypeError(f"{type(self).__name__} does not say how its shapes are read")

    def read_near(self, shapes: ShapeSet) -> tuple[Tensor, Tensor]:
        """`points` and `occupancies` of a ShapeSet for the training `shapes`, half of them near the surface."""
        raise TypeError(f"{type(self).__name__} has no points near the surface")

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        known = self.known_categories()
        if unknown := [name for name in self.chosen or () if name not in known]:
            raise ValueError(f"dataset.categories: no {', '.join(unknown)}; there are {', '.join(known)}")
        self.categories = [name for name in known if self.chosen is None or name in self.chosen]
        train = self.read("train", self.categories, self.limits["train"])
        held = {part: train if self.train_as_test else self._held(part) for part in ("val", "test")}
        if self.sampling == "surface":
            points, occupancies = self.read_near(train)
            train = replace(train, points=points, occupancies=occupancies)
        self.parts = {"train": train} | held
        if empty := [part for part, shapes in self.parts.items() if not len(shapes)]:
            self.parts = {}
            raise CorruptData(
                f"the part {', '.join(empty)} has no shapes of the categories {', '.join(self.categories)}: more are "
                "needed, or another split"
            )

    def _held(self, part: str) -> ShapeSet:
        return self.read(part, self.categories, self.limits[part])

    @property
    def dims(self) -> dict[str, Any]:
        """What a network must be told of the data. After `setup`."""
        return {"inputs": self.inputs, "num_shapes": len(self.parts["train"])}

    def names(self, part: str) -> list[str]:
        """Of the shapes of a part, in the order of `ShapeBatch.index`."""
        return self.parts[part].names

    def category_of(self, part: str) -> list[str]:
        """The category of each shape of a part, in the order of `ShapeBatch.index`."""
        return self.parts[part].categories

    def _on_device(self, part: str) -> ShapeSet:
        """The part, moved to the trainer's device for good, and with it the parts that are the same shapes."""
        before = self.parts[part]
        if self.trainer:
            after = before.to(self.trainer.strategy.root_device)
            self.parts = {name: after if shapes is before else shapes for name, shapes in self.parts.items()}
        return self.parts[part]

    def train_dataloader(self) -> TrainLoader:
        return self.train_loader(
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
            **ranks(self.trainer),
        )

    def _eval_loader(self, part: str) -> EvalLoader:
        shapes = self._on_device(part)
        places = in_turn(shapes.categories, self.limits[part])
        return self.eval_loader(shapes, self.inputs, places=places, **self.seen, **ranks(self.trainer))

    def val_dataloader(self) -> EvalLoader:
        return self._eval_loader("val")

    def test_dataloader(self) -> EvalLoader:
        return self._eval_loader("test")


def in_turn(categories: Sequence[str], limit: int | None) -> list[int]:
    """Places of at most `limit` shapes, in their order: the first of every category, then the second of every one..."""
    if limit is None or limit >= len(categories):
        return list(range(len(categories)))
    seen: dict[str, int] = {}
    turns = []
    for place, name in enumerate(categories):
        seen[name] = seen.get(name, 0) + 1
        turns.append((seen[name], place))
    return sorted(place for _, place in sorted(turns)[:limit])
