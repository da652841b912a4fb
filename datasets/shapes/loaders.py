"""Batches cut out of shapes in memory: points with their occupancy, and what an encoder sees of each shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from datasets.batching import batch_sizes, generator
from datasets.shapes.geometry import RESOLUTION

Inputs = Literal["pointcloud", "voxels", "image", "index", "none"]
Sampling = Literal["uniform", "equal", "surface"]

LATTICE = 1e-4  # noise that takes points off the lattice of float16, whose steps are up to 2^-11 in the unit cube
EVALUATION = (0, 0, 0)  # before a shape's place: a longer key than those of training, so another one


class ShapeBatch(NamedTuple):
    """B shapes. All floats are float32; shapes lie in the unit cube around 0, points up to 0.55 from it along an axis.

    points (B, T, 3), occupancies (B, T) 1 inside, else 0; inputs: what the encoder sees, by `inputs` of the data set:
    `pointcloud` (B, n, 3) noisy, `voxels` (B, 32, 32, 32) 0/1, `image` (B, 3, H, W) in [0, 1], `index` (B,) int64,
    `none` (B, 0); index (B,) int64: place of each shape in its part; voxels (B, 32, 32, 32) 0/1, axes x, y, z; surface
    (B, S, 3) and normals (B, S, 3), unit and outward, at points drawn evenly from the true surface. In training T and
    S points are drawn anew; in validation and test B is 1, and T and S are all that are stored.

    With `image` inputs whose cameras are known: cameras (B, 3, 4): [R | t], R p + t is a point p of the shape seen by
    the camera, x right, y down, z ahead, in edges of the unit cube; intrinsics (B, 3, 3): K (x, y, z) is z * (share of
    the picture's width from its left edge, share of its height from its top, 1), of the picture as it is in `inputs`.
    """

    points: Tensor
    occupancies: Tensor
    inputs: Tensor
    index: Tensor
    voxels: Tensor | None
    surface: Tensor | None
    normals: Tensor | None
    cameras: Tensor | None = None
    intrinsics: Tensor | None = None


@dataclass
class ShapeSet:
    """N shapes in memory, as small as they are on disk.

    points (N, P, 3) float16 or float32; occupancies (N, ceil(P / 8)) uint8, eight points a byte, the first in its
    highest bit (np.packbits); surface, normals (N, S, 3) float16 or float32; voxels (N, 4096) uint8, packed likewise
    out of (32, 32, 32); images (N, V, 3, H, W) uint8: V views of each; cameras (N, V, 3, 4), intrinsics (N, V, 3, 3)
    float32: theirs, as in `ShapeBatch`. Of each shape, its name and its category.
    """

    points: Tensor
    occupancies: Tensor
    names: list[str]
    categories: list[str]
    surface: Tensor | None = None
    normals: Tensor | None = None
    voxels: Tensor | None = None
    images: Tensor | None = None
    cameras: Tensor | None = None
    intrinsics: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> ShapeSet:
        """With all tensors on `device`; itself where they are there."""
        moved = {key: value.to(device) for key, value in self.tensors().items()}
        return self if all(value is getattr(self, key) for key, value in moved.items()) else replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if isinstance(value, Tensor)}


def unpack(packed: Tensor, count: int) -> Tensor:
    """(..., bytes) uint8 as np.packbits makes them -> (..., count) float32 of 0 and 1."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> shifts & 1).flatten(-2)[..., :count].float()


def unpack_at(packed: Tensor, shapes: Tensor, index: Tensor) -> Tensor:
    """The bits `index` (B, T) int64 of rows `shapes` (B,) int64 of packed (N, bytes) -> (B, T) float32 of 0 and 1."""
    bytes_ = packed.flatten()[shapes[:, None] * packed.shape[1] + (index >> 3)]
    return (bytes_ >> (7 - (index & 7)).to(torch.uint8) & 1).float()


def take(values: Tensor, shapes: Tensor, index: Tensor) -> Tensor:
    """values (N, P, 3), rows `shapes` (B,), points `index` (B, T) of each -> (B, T, 3) float32."""
    flat = (shapes[:, None] * values.shape[1] + index).flatten()
    return values.flatten(0, 1).index_select(0, flat).view(*index.shape, 3).float()


def cropped(pictures: Tensor, crop: Tensor, size: int) -> Tensor:
    """Squares of pictures (B, C, H, W), resized bilinearly to (B, C, size, size).

    crop: (B, 3): left and upper edge, and side, of each square, as shares of the width and the height.
    """
    left, top, side = crop.T
    zero = torch.zeros_like(side)
    rows = [side, zero, 2 * left + side - 1, zero, side, 2 * top + side - 1]
    grid = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), (*pictures.shape[:2], size, size), align_corners=False)
    return grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def cropped_intrinsics(intrinsics: Tensor, crop: Tensor) -> Tensor:
    """Intrinsics (B, 3, 3), which give shares of pictures, of the squares that `cropped` cuts out of them."""
    left, top, side = crop.T
    moved = torch.diag_embed(torch.stack([1 / side, 1 / side, torch.ones_like(side)], 1))
    moved[:, 0, 2], moved[:, 1, 2] = -left / side, -top / side
    return moved @ intrinsics


class Chosen(NamedTuple):
    """Shapes of a batch: `rows` (B,) int64 of a ShapeSet, on its device."""

    shapes: ShapeSet
    rows: Tensor

    def cloud(self, index: Tensor, noise: Tensor) -> Tensor:
        """The points `index` (B, n) of each surface, moved by `noise` (B, n, 3)."""
        device = self.rows.device
        return take(self.shapes.surface, self.rows, index.to(device)) + noise.to(device)

    def voxels(self) -> Tensor | None:
        """(B, 32, 32, 32), where there are any."""
        if self.shapes.voxels is None:
            return None
        bits = unpack(self.shapes.voxels.index_select(0, self.rows), RESOLUTION**3)
        return bits.view(-1, RESOLUTION, RESOLUTION, RESOLUTION)

    def pictures(self, view: Tensor) -> Tensor:
        """View `view` (B,) of each, as it is stored: (B, 3, H, W) float32 in [0, 1]."""
        return self.shapes.images[self.rows, view.to(self.rows.device)].float().div_(255)

    def lenses(self, view: Tensor) -> dict[str, Tensor]:
        """`cameras` and `intrinsics` of those pictures, where they are known."""
        if self.shapes.cameras is None:
            return {}
        where = self.rows, view.to(self.rows.device)
        return {"cameras": self.shapes.cameras[where], "intrinsics": self.shapes.intrinsics[where]}


class _Loader:
    """What both loaders know of their shapes.

    A subclass whose shapes are not all in memory says so by `held`, and in `choose` where those of a batch come from.

    Args:
        inputs: what the encoder sees. input_points, input_noise: of a cloud, how many points, and the standard
            deviation of normal noise on each coordinate, in edges of the unit cube. image_size: pixels a side that
            images are resized to; None: as they are.
        rank, world_size: of this process.

    Raises ValueError where the shapes have not what `inputs` needs, or are fewer than the processes.
    """

    held = True

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

    def choose(self, places: Tensor) -> Chosen:
        """The shapes at `places` (B,)."""
        return Chosen(self.shapes, places.to(self.device))

    @property
    def on_lattice(self) -> bool:
        return self.shapes.points.dtype == torch.float16

    def draw_cloud(self, count: int, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which surface points `count` shapes are seen by (count, n), and the noise on them (count, n, 3)."""
        size = (count, self.input_points)
        index = torch.randint(self.shapes.surface.shape[1], size, generator=drawn)
        return index, torch.randn(*size, 3, generator=drawn) * self.input_noise

    def resized(self, pictures: Tensor) -> Tensor:
        if self.image_size is None or self.image_size == pictures.shape[-1]:
            return pictures
        size = (self.image_size, self.image_size)
        return interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)


class TrainLoader(_Loader):
    """Iterates over shuffled batches of shapes, with points drawn out of the stored ones, with replacement.

    The order follows (seed, epoch) alone, and what is drawn (seed, epoch, number of the batch): a resumed run sees what
    an uninterrupted one sees, and neither the device nor the number of processes changes what is drawn. Each of
    several processes gets its share of every batch; a last batch of fewer shapes than there are processes joins the
    one before it. The shapes stay on their device, and batches are cut out there.

    Args:
        batch_size: of a global batch. points: T.
        sampling: `equal` draws half of the points (T odd: one more) outside the shape, the others inside; `uniform` and
            `surface` draw from all points alike, `surface` meaning that the stored ones are others.
        surface_points: S, of the surface that training may aim at.
        image_crop: a random square of every picture is seen, whose area is between this share of the picture and all
            of it (Mescheder et al. 2019: 0.75); None: all of it.
        iterations: batches in an epoch, shapes in random order again and again; None: once through all.
        inputs and others: as of `_Loader`.

    Raises ValueError where there is not a shape for every process, or, with `equal`, no point inside or outside one.
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
        **seen,
    ) -> None:
        super().__init__(shapes, inputs, **seen)
        if iterations is None:
            batch_size = min(batch_size, len(shapes))
        if batch_size < self.world_size:
            raise ValueError(
                f"{len(shapes)} shapes in batches of {batch_size} are too few for {self.world_size} processes"
            )
        self.batch_size, self.points, self.surface_points = batch_size, points, surface_points
        self.image_crop, self.iterations, self.seed = image_crop, iterations, seed
        self.equal = sampling == "equal"
        self.inside = InsideFirst(shapes) if self.equal and self.held else None
        self.epoch = 0
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _sizes(self) -> list[int]:
        """Shapes of each global batch."""
        if self.iterations is not None:
            return [self.batch_size] * self.iterations
        return batch_sizes(len(self.shapes), self.batch_size, self.world_size)

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[ShapeBatch]:
        epoch = self.epoch  # looked up at the first batch: Lightning sets it after it has made the iterator
        sizes = self._sizes()
        drawn = generator(self.seed, epoch)
        turns = -(-sum(sizes) // len(self.shapes))
        order = torch.cat([torch.randperm(len(self.shapes), generator=drawn) for _ in range(turns)])
        for number, places in enumerate(order[: sum(sizes)].split(sizes)):
            yield self._batch(places, generator(self.seed, epoch, number))

    def _batch(self, places: Tensor, drawn: torch.Generator) -> ShapeBatch:
        """This process's share of the global batch of the shapes at `places`."""
        count, share = len(places), slice(self.rank, None, self.world_size)
        here = places[share]
        shapes, rows = chosen = self.choose(here)

        if self.equal:
            where = torch.rand(count, self.points, generator=drawn)[share].to(self.device)
            index = (self.inside or InsideFirst(shapes)).spread(rows, where)
        else:
            where = torch.randint(shapes.points.shape[1], (count, self.points), generator=drawn)
            index = where[share].to(self.device)
        points = take(shapes.points, rows, index)
        if self.on_lattice:
            points += LATTICE * torch.randn(count, self.points, 3, generator=drawn)[share].to(self.device)

        surface = normals = None
        if shapes.surface is not None:
            size = (count, self.surface_points)
            on = torch.randint(shapes.surface.shape[1], size, generator=drawn)[share].to(self.device)
            surface, normals = take(shapes.surface, rows, on), take(shapes.normals, rows, on)
        batch = ShapeBatch(
            points=points,
            occupancies=unpack_at(shapes.occupancies, rows, index),
            inputs=points.new_empty(len(here), 0),
            index=here.to(self.device),
            voxels=chosen.voxels(),
            surface=surface,
            normals=normals,
        )
        return batch._replace(**self._inputs(chosen, batch, count, share, drawn))

    def _inputs(
        self, chosen: Chosen, batch: ShapeBatch, count: int, share: slice, drawn: torch.Generator
    ) -> dict[str, Tensor]:
        """`inputs`, unless there are none, and of images what is known of their cameras."""
        if self.inputs == "pointcloud":
            return {"inputs": chosen.cloud(*(values[share] for values in self.draw_cloud(count, drawn)))}
        if self.inputs == "image":
            view = torch.randint(chosen.shapes.images.shape[1], (count,), generator=drawn)[share]
            pictures, lenses = chosen.pictures(view), chosen.lenses(view)
            if self.image_crop is None:
                return {"inputs": self.resized(pictures)} | lenses
            area, corner = torch.rand(count, generator=drawn), torch.rand(count, 2, generator=drawn)
            side = (self.image_crop + (1 - self.image_crop) * area).sqrt()
            crop = torch.cat([corner * (1 - side[:, None]), side[:, None]], 1)[share].to(self.device)
            if lenses:
                lenses["intrinsics"] = cropped_intrinsics(lenses["intrinsics"], crop)
            return {"inputs": cropped(pictures, crop, self.image_size or pictures.shape[-1])} | lenses
        return {} if self.inputs == "none" else {"inputs": getattr(batch, self.inputs)}


class InsideFirst:
    """Where the points inside and outside of each shape are. Raises ValueError for a shape without either."""

    def __init__(self, shapes: ShapeSet) -> None:
        total = shapes.points.shape[1]
        self.inside = torch.empty(len(shapes), dtype=torch.long, device=shapes.points.device)
        self.order = torch.empty(len(shapes), total, dtype=torch.int32, device=shapes.points.device)
        for place, name in enumerate(shapes.names):
            bits = unpack(shapes.occupancies[place], total).bool()
            self.inside[place] = bits.sum()
            self.order[place] = torch.cat([bits.nonzero()[:, 0], (~bits).nonzero()[:, 0]])
            if self.inside[place] in (0, total):
                side = "inside" if self.inside[place] == 0 else "outside"
                raise ValueError(f"dataset.sampling=equal: {name} has no points {side}")

    def spread(self, shapes: Tensor, where: Tensor) -> Tensor:
        """where (B, T), uniform in [0, 1) -> places of points (B, T): T - T // 2 outside, then T // 2 inside."""
        inside, total = self.inside[shapes, None], self.order.shape[1]
        outer = where.shape[1] - where.shape[1] // 2
        out = inside + (where[:, :outer].double() * (total - inside)).long()
        index = torch.cat([out, (where[:, outer:].double() * inside).long()], 1)
        return self.order[shapes].gather(1, index).long()


class EvalLoader(_Loader):
    """Iterates over shapes one by one (B = 1), with all stored points; view 0 of the images.

    What is drawn (the cloud that the encoder sees, the noise off the lattice) follows the shape's place alone: every
    run, epoch and device sees the same. Of several processes each gets every so many shapes; the first ones come twice
    where the processes do not divide their number.

    Args:
        places: of the shapes in their part; None: all. inputs and others: as of `_Loader`.
    """

    def __init__(self, shapes: ShapeSet, inputs: Inputs, *, places: Sequence[int] | None = None, **seen) -> None:
        super().__init__(shapes, inputs, **seen)
        self.places = list(range(len(shapes)) if places is None else places)

    def __len__(self) -> int:
        return -(-len(self.places) // self.world_size)

    def __iter__(self) -> Iterator[ShapeBatch]:
        for number in range(len(self)):
            yield self._shape(self.places[(number * self.world_size + self.rank) % len(self.places)])

    def _shape(self, place: int) -> ShapeBatch:
        drawn = generator(*EVALUATION, place)
        here = torch.tensor([place])
        shapes, rows = chosen = self.choose(here)
        points = shapes.points[rows].float()
        if self.on_lattice:
            points += LATTICE * torch.randn(points.shape, generator=drawn).to(self.device)
        surface, normals = (None if x is None else x[rows].float() for x in (shapes.surface, shapes.normals))
        batch = ShapeBatch(
            points=points,
            occupancies=unpack(shapes.occupancies[rows], points.shape[1]),
            inputs=points.new_empty(1, 0),
            index=here.to(self.device),
            voxels=chosen.voxels(),
            surface=surface,
            normals=normals,
        )
        if self.inputs == "pointcloud":
            return batch._replace(inputs=chosen.cloud(*self.draw_cloud(1, drawn)))
        if self.inputs == "image":
            view = torch.zeros(1, dtype=torch.long)
            return batch._replace(inputs=self.resized(chosen.pictures(view)), **chosen.lenses(view))
        return batch if self.inputs == "none" else batch._replace(inputs=getattr(batch, self.inputs))
