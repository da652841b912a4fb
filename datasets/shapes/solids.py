"""The DataModule of the embedded shapes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.shapes.base import ShapeDataModule, in_turn
from datasets.shapes.geometry import BOX, RESOLUTION, half_near, voxel_centres
from datasets.shapes.layout import PARTS
from datasets.shapes.loader import ShapeSet
from datasets.shapes.render import SIZE, intrinsics, random_camera, render
from datasets.shapes.solids import CATEGORIES, Solid, random_solid


class Solids(ShapeDataModule):
    """The embedded shapes: boxes, cones, cups, cylinders, dumbbells, ellipsoids, tables and tori, with exact formulas.

    Yields what `ShapeDataModule` says; needs no files. Every shape follows (`shape_seed`, category, part, its number)
    alone, so that more shapes begin with the same ones.

    Args:
        shapes: of each category in `train`, `val` and `test`.
        stored_points: of the volume, and as many of the surface, of each shape.
        shape_seed: of the shapes.
        views: pictures of each shape, drawn where `inputs` is `image`, of `image_size` (None: 137) pixels a side.
    """

    def __init__(
        self,
        shapes: dict[str, int],
        stored_points: int = 20_000,
        shape_seed: int = 0,
        views: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if set(shapes) != set(PARTS) or min(shapes.values()) < 1:
            raise ValueError(f"dataset.shapes must have a positive train, val and test, got {dict(shapes)}")
        if stored_points < 1:
            raise ValueError(f"dataset.stored_points must be positive, got {stored_points}")
        if shape_seed < 0:
            raise ValueError(f"dataset.shape_seed must not be negative, got {shape_seed}")
        if views < 1:
            raise ValueError(f"dataset.views must be positive, got {views}")
        self.shapes, self.stored_points, self.shape_seed = dict(shapes), stored_points, shape_seed
        self.views = views

    def known_categories(self) -> list[str]:
        return list(CATEGORIES)

    def _generator(self, name: str) -> np.random.Generator:
        """Of the shape `<category>/<part>/<number>`."""
        return np.random.default_rng([self.shape_seed, zlib.crc32(name.encode())])

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        listed = [(name, number) for name in categories for number in range(self.shapes[part])]
        listed = [listed[place] for place in in_turn([name for name, _ in listed], limit)]
        names = [f"{category}/{part}/{number}" for category, number in listed]
        sampled = [self._sampled(name) for name in names]
        stacked = {key: torch.from_numpy(np.stack([shape[key] for shape in sampled])) for key in sampled[0]}
        return ShapeSet(names=names, categories=[name for name, _ in listed], **stacked)

    def _sampled(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a ShapeSet for one shape."""
        drawn = self._generator(name)
        solid = random_solid(name.partition("/")[0], drawn)
        points = drawn.uniform(-BOX, BOX, (self.stored_points, 3))
        surface, normals = solid.surface(self.stored_points, drawn)
        arrays = {
            "points": points.astype(np.float16),
            "occupancies": np.packbits(solid.inside(points)),
            "surface": surface.astype(np.float16),
            "normals": normals.astype(np.float16),
            "voxels": np.packbits(solid.inside(voxel_centres(RESOLUTION))),
        }
        if self.inputs == "image":
            mesh, size = solid.mesh(), self.seen["image_size"] or SIZE
            cameras = [random_camera(drawn, up="z") for _ in range(self.views)]
            arrays["images"] = np.stack([render(*mesh, camera, size) for camera in cameras])[:, None].repeat(3, axis=1)
            arrays["cameras"] = np.stack(cameras).astype(np.float32)
            arrays["intrinsics"] = np.stack([intrinsics(1)] * self.views).astype(np.float32)
        return arrays

    def solid(self, name: str) -> Solid:
        """The shape of this name."""
        return random_solid(name.partition("/")[0], self._generator(name))

    def read_near(self, shapes: ShapeSet) -> tuple[Tensor, Tensor]:
        points, occupancies = [], []
        for name in shapes.names:
            solid, drawn = self.solid(name), self._generator(f"{name}/near")
            surface, _ = solid.surface(self.stored_points // 2, drawn)
            mixed = half_near(surface, self.stored_points, drawn)
            points.append(mixed.astype(np.float16))
            occupancies.append(np.packbits(solid.inside(mixed)))
        return torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(occupancies))
