"""Shapes in memory, batches of them, and how both are cut out of each other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from datasets.shapes.geometry import RESOLUTION


class ShapeBatch(NamedTuple):
    """A batch of B shapes.

    All floats are float32. Shapes lie in the unit cube around 0, query points up to 0.55 from it along an axis. In
    training T and S points are drawn anew; in validation and test B is 1, and T and S are all stored points.

    Args:
        points: query points (B, T, 3).
        occupancies: 1 inside and 0 outside, (B, T).
        inputs: what the encoder sees, by `inputs` of the data set: `pointcloud` (B, n, 3) with noise, `voxels`
            (B, 32, 32, 32) of 0 and 1, `image` (B, 3, H, W) in [0, 1], `index` (B,) int64, `none` (B, 0).
        index: place of each shape in its part, (B,) int64.
        voxels: 0 and 1, (B, 32, 32, 32), axes x, y, z; None if the set has none.
        surface: points drawn uniformly from the true surface, (B, S, 3); None if the set has none.
        normals: outward unit normals at these points, (B, S, 3); None if the set has none.
        cameras: [R | t] (B, 3, 4) of the images, None if unknown. R p + t is a point p of the shape in the frame of
            the camera: x right, y down, z ahead, in edges of the unit cube.
        intrinsics: camera matrices K (B, 3, 3) of the images as they are in `inputs`, None if unknown. K (x, y, z) is
            z * (share of the width from the left edge, share of the height from the top, 1).
    """

    points: Tensor
    occupancies: Tensor
    inputs: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    voxels: Tensor | None
    surface: Tensor | None
    normals: Tensor | None
    cameras: Tensor | None = None
    intrinsics: Tensor | None = None


@dataclass
class ShapeSet:
    """N shapes in memory, as small as they are on disk.

    Args:
        points: query points (N, P, 3), float16 or float32.
        occupancies: (N, ceil(P / 8)) uint8, eight points per byte, the first in its highest bit (np.packbits).
        names: name of each shape.
        categories: category of each shape.
        surface: points on the surface (N, S, 3), float16 or float32.
        normals: unit normals (N, S, 3), float16 or float32.
        voxels: (N, 4096) uint8, packed like the occupancies, of (32, 32, 32).
        images: V views of each shape, (N, V, 3, H, W) uint8.
        cameras: cameras of the views (N, V, 3, 4) float32, as in `ShapeBatch`.
        intrinsics: camera matrices of the views (N, V, 3, 3) float32, as in `ShapeBatch`.
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
        """Return the set with all tensors on `device`; itself if they are there."""
        moved: dict[str, Any] = {key: value.to(device) for key, value in self.tensors().items()}
        return self if all(value is getattr(self, key) for key, value in moved.items()) else replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the set has, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if isinstance(value, Tensor)}


class Selection(NamedTuple):
    """Shapes of a batch.

    Args:
        shapes: set of shapes.
        rows: places (B,) int64 in the set, on its device.
    """

    shapes: ShapeSet
    rows: Tensor

    def point_clouds(self, index: Tensor, noise: Tensor) -> Tensor:
        """Return points `index` (B, n) of each surface, moved by `noise`: (B, n, 3)."""
        assert self.shapes.surface is not None
        device = self.rows.device
        return gather_points(self.shapes.surface, self.rows, index.to(device)) + noise.to(device)

    def voxels(self) -> Tensor | None:
        """Return voxels (B, 32, 32, 32), None if the set has none."""
        if self.shapes.voxels is None:
            return None
        bits = unpack_bits(self.shapes.voxels.index_select(0, self.rows), RESOLUTION**3)
        return bits.view(-1, RESOLUTION, RESOLUTION, RESOLUTION)

    def images(self, view: Tensor) -> Tensor:
        """Return view `view` (B,) of each shape at its stored size: (B, 3, H, W) float32 in [0, 1]."""
        assert self.shapes.images is not None
        return self.shapes.images[self.rows, view.to(self.rows.device)].float().div_(255)

    def cameras(self, view: Tensor) -> dict[str, Tensor]:
        """Return `cameras` and `intrinsics` of these images; nothing if they are unknown."""
        if self.shapes.cameras is None or self.shapes.intrinsics is None:
            return {}
        at = self.rows, view.to(self.rows.device)
        return {"cameras": self.shapes.cameras[at], "intrinsics": self.shapes.intrinsics[at]}


class InsideFirst:
    """Order of the points of each shape in which those inside come first, to draw from either side.

    Args:
        shapes: set of shapes.

    Raises:
        ValueError: if a shape has no points inside or none outside.
    """

    def __init__(self, shapes: ShapeSet) -> None:
        total = shapes.points.shape[1]
        self.inside = torch.empty(len(shapes), dtype=torch.long, device=shapes.points.device)
        self.order = torch.empty(len(shapes), total, dtype=torch.int32, device=shapes.points.device)
        for place, name in enumerate(shapes.names):
            bits = unpack_bits(shapes.occupancies[place], total).bool()
            self.inside[place] = bits.sum()
            self.order[place] = torch.cat([bits.nonzero()[:, 0], (~bits).nonzero()[:, 0]])
            if self.inside[place] in (0, total):
                side = "inside" if self.inside[place] == 0 else "outside"
                raise ValueError(f"dataset.sampling=equal: {name} has no points {side}")

    def sample(self, shapes: Tensor, uniform: Tensor) -> Tensor:
        """Choose points of shapes (B,): T - T // 2 of them outside, then T // 2 inside.

        Args:
            shapes: places (B,) in the set.
            uniform: random numbers (B, T) in [0, 1).

        Returns:
            Places of the points (B, T).
        """
        inside, total = self.inside[shapes, None], self.order.shape[1]
        outer = uniform.shape[1] - uniform.shape[1] // 2
        out = inside + (uniform[:, :outer].double() * (total - inside)).long()
        index = torch.cat([out, (uniform[:, outer:].double() * inside).long()], 1)
        return self.order[shapes].gather(1, index).long()


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Unpack bytes (..., bytes) that np.packbits made to `count` floats of 0 and 1: (..., count)."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> shifts & 1).flatten(-2)[..., :count].float()


def gather_bits(packed: Tensor, shapes: Tensor, index: Tensor) -> Tensor:
    """Return bits `index` (B, T) of rows `shapes` (B,) of packed bytes (N, bytes), as floats of 0 and 1: (B, T)."""
    bytes_ = packed.flatten()[shapes[:, None] * packed.shape[1] + (index >> 3)]
    return (bytes_ >> (7 - (index & 7)).to(torch.uint8) & 1).float()


def gather_points(values: Tensor, shapes: Tensor, index: Tensor) -> Tensor:
    """Return points `index` (B, T) of rows `shapes` (B,) of values (N, P, 3) in float32: (B, T, 3)."""
    flat = (shapes[:, None] * values.shape[1] + index).flatten()
    return values.flatten(0, 1).index_select(0, flat).view(*index.shape, 3).float()


def crop_images(images: Tensor, crop: Tensor, size: int) -> Tensor:
    """Cut a square out of each image and resize it bilinearly.

    Args:
        images: images (B, C, H, W).
        crop: left edge, upper edge and side of each square, as shares of width and height, (B, 3).
        size: pixels per side of the result.

    Returns:
        Images (B, C, size, size).
    """
    left, top, side = crop.T
    zero = torch.zeros_like(side)
    rows = [side, zero, 2 * left + side - 1, zero, side, 2 * top + side - 1]
    grid = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [*images.shape[:2], size, size], align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop_intrinsics(intrinsics: Tensor, crop: Tensor) -> Tensor:
    """Convert camera matrices (B, 3, 3) of images to those of the squares that `crop_images` cuts out of them."""
    left, top, side = crop.T
    moved = torch.diag_embed(torch.stack([1 / side, 1 / side, torch.ones_like(side)], 1))
    moved[:, 0, 2], moved[:, 1, 2] = -left / side, -top / side
    return moved @ intrinsics
