"""Base class of the DataModules of shapes: parts held in memory, and loaders over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pytorch_lightning import LightningDataModule
from torch import Tensor

from datasets.batching import ranks
from datasets.checks import check_choice, check_not_negative, check_positive
from datasets.download import CorruptData
from datasets.shapes.loaders import EvalLoader, Inputs, Sampling, TrainLoader
from datasets.shapes.shape_set import ShapeSet


class ShapeDataModule(LightningDataModule):
    """Yields `ShapeBatch`: query points in a box larger than the unit cube with their occupancy, and encoder inputs.

    Loaders: train (shuffled, points drawn anew), val and test (one shape per batch, with all stored points). After
    `setup`: `parts`, the ShapeSet of train, val and test, and `categories`, the names of those that were read. The data
    is in memory.

    Args:
        inputs: what the encoder sees: `pointcloud`, `voxels`, `image`, `index` (of the training shape; only with
            `train_as_test`) or `none`.
        points: number of query points T of each shape in a training batch.
        sampling: `uniform` draws from all stored points; `equal`: half outside, half inside; `surface`: from points of
            which half are near the surface (in training only).
        surface_points: number of points S on the true surface in a training batch.
        input_points: number of points of an input cloud.
        input_noise: standard deviation of the noise on each coordinate of an input cloud, in edges of the unit cube.
        image_size: pixels per side that images are resized to; None: as they are stored.
        image_crop: in training a random square of an image is used, of at least this share of its area; None: all of
            it.
        batch_size: shapes in a global batch of training.
        iterations: batches per epoch, with shapes in random order again and again; None: one pass over the shapes.
        categories: names of the categories to read; None: all.
        limit_train: largest number of training shapes; the first ones of the categories in turn are kept. None: all.
        limit_val: the same for validation.
        limit_test: the same for test.
        train_as_test: validate and test on the training shapes, to measure what can be represented at all.
        root: data folder.
        seed: seed of shuffling and drawing.
        workers: not used.

    Raises:
        ValueError: if an argument is out of its range.
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
        self.limits = {"train": limit_train, "val": limit_val, "test": limit_test}
        check_positive("dataset", points=points, surface_points=surface_points, input_points=input_points)
        check_positive("dataset", image_size=image_size, batch_size=batch_size, iterations=iterations)
        check_positive("dataset", **{f"limit_{part}": limit for part, limit in self.limits.items()})
        check_choice("dataset.inputs", inputs, get_args(Inputs))
        check_choice("dataset.sampling", sampling, get_args(Sampling))
        _check_shares(input_noise, image_crop)
        if inputs == "index" and not train_as_test:
            raise ValueError("dataset.inputs=index knows only the training shapes: set dataset.train_as_test=true")
        if categories is not None and (not categories or len(set(categories)) < len(categories)):
            raise ValueError(f"dataset.categories must name at least one, and each once, got {list(categories)}")
        self.inputs, self.points, self.sampling, self.surface_points = inputs, points, sampling, surface_points
        self.input_points, self.input_noise, self.image_size = input_points, input_noise, image_size
        self.image_crop, self.batch_size, self.iterations = image_crop, batch_size, iterations
        self.requested = None if categories is None else list(categories)
        self.train_as_test = train_as_test
        self.root, self.seed = Path(root), seed
        self.parts: dict[str, ShapeSet] = {}

    def available_categories(self) -> list[str]:
        """Return the names of all categories, in their order. Subclasses implement it."""
        raise NotImplementedError(f"{type(self).__name__} must implement available_categories")

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        """Read the shapes of a part, at most `limit` of them (see `round_robin`). Subclasses implement it."""
        raise NotImplementedError(f"{type(self).__name__} must implement read")

    def read_near_points(self, shapes: ShapeSet) -> tuple[Tensor, Tensor]:
        """Read `points` and `occupancies` for training shapes, half of the points near the surface."""
        raise NotImplementedError(f"{type(self).__name__} has no points near the surface")

    def setup(self, stage: str | None = None) -> None:
        """Read all parts.

        Raises:
            MissingData: if files are not there.
            CorruptData: if files are damaged or a part has no shapes.
            ValueError: if a category does not exist.
        """
        if self.parts:
            return
        available = self.available_categories()
        if unknown := [name for name in self.requested or () if name not in available]:
            raise ValueError(f"dataset.categories: no {', '.join(unknown)}; there are {', '.join(available)}")
        self.categories = [name for name in available if self.requested is None or name in self.requested]
        parts = {"train": self.read("train", self.categories, self.limits["train"])}
        for part in ("val", "test"):
            own = None if self.train_as_test else self.read(part, self.categories, self.limits[part])
            parts[part] = parts["train"] if own is None else own
        if empty := [part for part, shapes in parts.items() if not len(shapes)]:
            raise CorruptData(
                f"the part {', '.join(empty)} has no shapes of the categories {', '.join(self.categories)}: add "
                "meshes, or change the split"
            )
        if self.sampling == "surface":
            points, occupancies = self.read_near_points(parts["train"])
            parts["train"] = replace(parts["train"], points=points, occupancies=occupancies)
        self.parts = parts

    @property
    def dims(self) -> dict[str, Any]:
        """Return the arguments of a network that depend on the data. Needs `setup`."""
        return {"inputs": self.inputs, "num_shapes": len(self.parts["train"])}

    def names(self, part: str) -> list[str]:
        """Return the names of the shapes of a part, in the order of `ShapeBatch.index`."""
        return self.parts[part].names

    def category_of(self, part: str) -> list[str]:
        """Return the category of each shape of a part, in the order of `ShapeBatch.index`."""
        return self.parts[part].categories

    def _on_device(self, part: str) -> ShapeSet:
        """Move a part, and the parts that are the same shapes, to the device of the trainer, and return it."""
        before = self.parts[part]
        if self.trainer:
            after = before.to(self.trainer.strategy.root_device)
            self.parts = {name: after if shapes is before else shapes for name, shapes in self.parts.items()}
        return self.parts[part]

    def _loader_arguments(self) -> dict[str, Any]:
        """Return the arguments that both loaders share."""
        own = {"input_points": self.input_points, "input_noise": self.input_noise, "image_size": self.image_size}
        return own | ranks(self.trainer)

    def train_dataloader(self) -> TrainLoader:
        """Return the loader of the training part."""
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
            **self._loader_arguments(),
        )

    def _eval_loader(self, part: str) -> EvalLoader:
        shapes = self._on_device(part)
        places = round_robin(shapes.categories, self.limits[part])
        return self.eval_loader(shapes, self.inputs, places=places, **self._loader_arguments())

    def val_dataloader(self) -> EvalLoader:
        """Return the loader of the validation part."""
        return self._eval_loader("val")

    def test_dataloader(self) -> EvalLoader:
        """Return the loader of the test part."""
        return self._eval_loader("test")


def _check_shares(input_noise: float, image_crop: float | None) -> None:
    check_not_negative("dataset", input_noise=input_noise)
    if image_crop is not None and not 0 < image_crop <= 1:
        raise ValueError(f"dataset.image_crop must be in (0, 1], got {image_crop}")


def round_robin(categories: Sequence[str], limit: int | None) -> list[int]:
    """Choose at most `limit` shapes: the first of every category, then the second of every one, and so on.

    Args:
        categories: category of each shape.
        limit: largest number of shapes; None: all.

    Returns:
        Places of the chosen shapes, ascending.
    """
    if limit is None or limit >= len(categories):
        return list(range(len(categories)))
    count: dict[str, int] = {}
    turns = []
    for place, name in enumerate(categories):
        count[name] = count.get(name, 0) + 1
        turns.append((count[name], place))
    return sorted(place for _, place in sorted(turns)[:limit])
