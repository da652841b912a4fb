"""Loaders that cut batches out of shapes in memory: query points with their occupancy, and inputs of the encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datasets.batching import batch_sizes, generator
from datasets.shapes.shape_set import (
    InsideFirst,
    Selection,
    ShapeBatch,
    ShapeSet,
    crop_images,
    crop_intrinsics,
    gather_bits,
    gather_points,
    unpack_bits,
)

Inputs = Literal["pointcloud", "voxels", "image", "index", "none"]
Sampling = Literal["uniform", "equal", "surface"]

LATTICE_NOISE = 1e-4  # moves points off the lattice of float16, whose steps are up to 2^-11 in the unit cube
EVALUATION = (0, 0, 0)  # prefix of evaluation keys: they are longer than those of training, and so never equal


class _Loader:
    """What both loaders know of their shapes.

    A subclass whose shapes are not all in memory sets `in_memory` to False and overrides `select`.

    Args:
        shapes: set of shapes.
        inputs: what the encoder sees.
        input_points: number of points of an input cloud.
        input_noise: standard deviation of normal noise on each coordinate of an input cloud, in edges of the unit cube.
        image_size: pixels per side that images are resized to; None: as they are stored.
        rank: rank of this process.
        world_size: number of processes.

    Raises:
        ValueError: if there are no shapes, or they lack what `inputs` needs.
    """

    in_memory = True

    def __init__(
        self,
        shapes: ShapeSet,
        inputs: Inputs,
        *,
        input_points: int = 300,
        input_noise: float = 0.005,
        image_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not len(shapes):
            raise ValueError("there are no shapes to load")
        needed = {"pointcloud": shapes.surface, "voxels": shapes.voxels, "image": shapes.images}
        if inputs in needed and needed[inputs] is None:
            raise ValueError(f"dataset.inputs={inputs}: this data set has none")
        self.shapes, self.inputs = shapes, inputs
        self.input_points, self.input_noise, self.image_size = input_points, input_noise, image_size
        self.rank, self.world_size = rank, world_size
        self.device = shapes.points.device

    def select(self, places: Tensor) -> Selection:
        """Return the shapes at `places` (B,)."""
        return Selection(self.shapes, places.to(self.device))

    @property
    def on_lattice(self) -> bool:
        """Return whether the stored points are rounded to float16."""
        return self.shapes.points.dtype == torch.float16

    def draw_cloud(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the input clouds of `count` shapes: places of surface points (count, n), and noise (count, n, 3)."""
        assert self.shapes.surface is not None
        size = (count, self.input_points)
        index = torch.randint(self.shapes.surface.shape[1], size, generator=rng)
        return index, torch.randn(*size, 3, generator=rng) * self.input_noise

    def resize(self, images: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) to `image_size`."""
        if self.image_size is None or self.image_size == images.shape[-1]:
            return images
        size = (self.image_size, self.image_size)
        return interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


class TrainLoader(_Loader):
    """Iterates over shuffled batches of shapes, with points drawn from the stored ones with replacement.

    The order depends on (seed, epoch) alone, and the draws on (seed, epoch, number of the batch): a resumed run sees
    the batches of an uninterrupted one, and neither the device nor the number of processes changes the draws. Each of
    several processes gets its share of every batch; a last batch of fewer shapes than there are processes joins the
    one before it. The shapes stay on their device, and batches are cut out there.

    Args:
        shapes: set of shapes.
        batch_size: shapes in a global batch.
        points: number of query points T.
        inputs: what the encoder sees.
        sampling: `equal` draws half of the points (T odd: one more) outside the shape and the others inside. `uniform`
            and `surface` draw from all stored points; with `surface` the set stores other points.
        surface_points: number of surface points S.
        image_crop: a random square of every image is used, whose area is between this share of the image and all of it
            (Mescheder et al. 2019: 0.75); None: the whole image.
        iterations: batches per epoch, with shapes in random order again and again; None: one pass over the shapes.
        seed: seed of shuffling and drawing.
        **loader: arguments of both loaders: `input_points`, `input_noise`, `image_size`, `rank`, `world_size`.

    Raises:
        ValueError: if a batch has fewer shapes than there are processes, or, with `equal`, a shape has no point inside
            or none outside.
    """

    def __init__(
        self,
        shapes: ShapeSet,
        batch_size: int,
        points: int,
        inputs: Inputs,
        *,
        sampling: Sampling = "uniform",
        surface_points: int = 1024,
        image_crop: float | None = None,
        iterations: int | None = None,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        super().__init__(shapes, inputs, **loader)
        if iterations is None:
            batch_size = min(batch_size, len(shapes))
        if batch_size < self.world_size:
            raise ValueError(
                f"{len(shapes)} shapes in batches of {batch_size} are too few for {self.world_size} processes"
            )
        self.batch_size, self.points, self.surface_points = batch_size, points, surface_points
        self.image_crop, self.iterations, self.seed = image_crop, iterations, seed
        self.equal = sampling == "equal"
        self.inside_first = InsideFirst(shapes) if self.equal and self.in_memory else None
        self.epoch = 0
        self.sampler, self.batch_sampler = self, None  # Lightning calls sampler.set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which order and draws depend."""
        self.epoch = epoch

    def _sizes(self) -> list[int]:
        """Return the number of shapes of each global batch."""
        if self.iterations is not None:
            return [self.batch_size] * self.iterations
        return batch_sizes(len(self.shapes), self.batch_size, self.world_size)

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[ShapeBatch]:
        epoch = self.epoch  # read at the first batch: Lightning sets it after it has made the iterator
        sizes = self._sizes()
        rng = generator(self.seed, epoch)
        passes = -(-sum(sizes) // len(self.shapes))
        order = torch.cat([torch.randperm(len(self.shapes), generator=rng) for _ in range(passes)])
        for number, places in enumerate(order[: sum(sizes)].split(sizes)):
            yield self._batch(places, generator(self.seed, epoch, number))

    def _batch(self, places: Tensor, rng: torch.Generator) -> ShapeBatch:
        """Return the share of this process in the global batch of the shapes at `places`."""
        count, share = len(places), slice(self.rank, None, self.world_size)
        own = places[share]
        shapes, rows = selection = self.select(own)

        if self.equal:
            uniform = torch.rand(count, self.points, generator=rng)[share].to(self.device)
            index = (self.inside_first or InsideFirst(shapes)).sample(rows, uniform)
        else:
            drawn = torch.randint(shapes.points.shape[1], (count, self.points), generator=rng)
            index = drawn[share].to(self.device)
        points = gather_points(shapes.points, rows, index)
        if self.on_lattice:
            points += LATTICE_NOISE * torch.randn(count, self.points, 3, generator=rng)[share].to(self.device)

        surface = normals = None
        if shapes.surface is not None and shapes.normals is not None:
            size = (count, self.surface_points)
            on = torch.randint(shapes.surface.shape[1], size, generator=rng)[share].to(self.device)
            surface, normals = gather_points(shapes.surface, rows, on), gather_points(shapes.normals, rows, on)
        batch = ShapeBatch(
            points=points,
            occupancies=gather_bits(shapes.occupancies, rows, index),
            inputs=points.new_empty(len(own), 0),
            index=own.to(self.device),
            voxels=selection.voxels(),
            surface=surface,
            normals=normals,
        )
        return batch._replace(**self._inputs(selection, batch, count, share, rng))

    def _inputs(
        self, selection: Selection, batch: ShapeBatch, count: int, share: slice, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Return `inputs`, unless there are none, and the cameras of images, where they are known."""
        if self.inputs == "none":
            return {}
        if self.inputs == "pointcloud":
            index, noise = self.draw_cloud(count, rng)
            return {"inputs": selection.point_clouds(index[share], noise[share])}
        if self.inputs == "image":
            return self._images(selection, count, share, rng)
        return {"inputs": getattr(batch, self.inputs)}

    def _images(self, selection: Selection, count: int, share: slice, rng: torch.Generator) -> dict[str, Tensor]:
        """Return a random view of each shape as `inputs`, cropped and resized, and its camera, where it is known."""
        assert selection.shapes.images is not None
        view = torch.randint(selection.shapes.images.shape[1], (count,), generator=rng)[share]
        images, cameras = selection.images(view), selection.cameras(view)
        if self.image_crop is None:
            return {"inputs": self.resize(images)} | cameras
        area, corner = torch.rand(count, generator=rng), torch.rand(count, 2, generator=rng)
        side = (self.image_crop + (1 - self.image_crop) * area).sqrt()
        crop = torch.cat([corner * (1 - side[:, None]), side[:, None]], 1)[share].to(self.device)
        if cameras:
            cameras["intrinsics"] = crop_intrinsics(cameras["intrinsics"], crop)
        return {"inputs": crop_images(images, crop, self.image_size or images.shape[-1])} | cameras


class EvalLoader(_Loader):
    """Iterates over shapes one by one (B = 1), with all stored points; of images, view 0.

    What is drawn (the input cloud, the noise off the lattice) depends on the place of the shape alone: every run, epoch
    and device sees the same. With several processes, each gets every n-th shape; the first ones are repeated if the
    number of shapes is no multiple of n.

    Args:
        shapes: set of shapes.
        inputs: what the encoder sees.
        places: places of the shapes in their part; None: all.
        **loader: arguments of both loaders: `input_points`, `input_noise`, `image_size`, `rank`, `world_size`.
    """

    def __init__(self, shapes: ShapeSet, inputs: Inputs, *, places: Sequence[int] | None = None, **loader: Any) -> None:
        super().__init__(shapes, inputs, **loader)
        self.places = list(range(len(shapes)) if places is None else places)

    def __len__(self) -> int:
        return -(-len(self.places) // self.world_size)

    def __iter__(self) -> Iterator[ShapeBatch]:
        for number in range(len(self)):
            yield self._shape(self.places[(number * self.world_size + self.rank) % len(self.places)])

    def _shape(self, place: int) -> ShapeBatch:
        rng = generator(*EVALUATION, place)
        own = torch.tensor([place])
        shapes, rows = selection = self.select(own)
        points = shapes.points[rows].float()
        if self.on_lattice:
            points += LATTICE_NOISE * torch.randn(points.shape, generator=rng).to(self.device)
        surface, normals = (None if x is None else x[rows].float() for x in (shapes.surface, shapes.normals))
        batch = ShapeBatch(
            points=points,
            occupancies=unpack_bits(shapes.occupancies[rows], points.shape[1]),
            inputs=points.new_empty(1, 0),
            index=own.to(self.device),
            voxels=selection.voxels(),
            surface=surface,
            normals=normals,
        )
        if self.inputs == "none":
            return batch
        if self.inputs == "pointcloud":
            return batch._replace(inputs=selection.point_clouds(*self.draw_cloud(1, rng)))
        if self.inputs == "image":
            view = torch.zeros(1, dtype=torch.long)
            return batch._replace(inputs=self.resize(selection.images(view)), **selection.cameras(view))
        return batch._replace(inputs=getattr(batch, self.inputs))
