"""DataModule of the embedded shapes: solids with exact formulas."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.checks import check_not_negative, check_positive
from datasets.shapes.base import ShapeDataModule, round_robin
from datasets.shapes.csg import CATEGORIES, Solid, random_solid
from datasets.shapes.geometry import BOX, RESOLUTION, mix_uniform_and_near, voxel_centers
from datasets.shapes.render import SIZE, intrinsics, random_camera, render
from datasets.shapes.shape_set import ShapeSet
from datasets.shapes.shapenet_format import PARTS


class Solids(ShapeDataModule):
    """Random solids of eight categories: box, cone, cup, cylinder, dumbbell, ellipsoid, table, torus.

    Yields what `ShapeDataModule` says; needs no files. A shape depends on `shape_seed`, category, part and its number
    alone, so that a larger set begins with the same shapes.

    Args:
        shapes: number of shapes of each category in `train`, `val` and `test`.
        stored_points: number of points in the volume, and on the surface, of each shape.
        shape_seed: seed of the shapes.
        views: number of images of each shape, rendered if `inputs` is `image`, of `image_size` (None: 137) pixels per
            side.
        **kwargs: arguments of `ShapeDataModule`.
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
        check_positive("dataset", stored_points=stored_points, views=views)
        check_not_negative("dataset", shape_seed=shape_seed)
        self.shapes, self.stored_points, self.shape_seed = dict(shapes), stored_points, shape_seed
        self.views = views

    def available_categories(self) -> list[str]:
        """Return the names of the eight categories."""
        return list(CATEGORIES)

    def _generator(self, name: str) -> np.random.Generator:
        """Return the random generator of the shape `<category>/<part>/<number>`."""
        return np.random.default_rng([self.shape_seed, zlib.crc32(name.encode())])

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        """Sample the shapes of a part, at most `limit` of them."""
        listed = [(name, number) for name in categories for number in range(self.shapes[part])]
        listed = [listed[place] for place in round_robin([name for name, _ in listed], limit)]
        names = [f"{category}/{part}/{number}" for category, number in listed]
        sampled = [self._sample(name) for name in names]
        stacked = {key: torch.from_numpy(np.stack([shape[key] for shape in sampled])) for key in sampled[0]}
        return ShapeSet(names=names, categories=[name for name, _ in listed], **stacked)

    def _sample(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a ShapeSet for one shape."""
        rng = self._generator(name)
        solid = random_solid(name.partition("/")[0], rng)
        points = rng.uniform(-BOX, BOX, (self.stored_points, 3))
        surface, normals = solid.sample_surface(self.stored_points, rng)
        arrays: dict[str, np.ndarray] = {
            "points": points.astype(np.float16),
            "occupancies": np.packbits(solid.contains(points)),
            "surface": surface.astype(np.float16),
            "normals": normals.astype(np.float16),
            "voxels": np.packbits(solid.contains(voxel_centers(RESOLUTION))),
        }
        return arrays | self._render(solid, rng) if self.inputs == "image" else arrays

    def _render(self, solid: Solid, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return images of a solid, with their cameras."""
        mesh, size = solid.mesh(), self.image_size or SIZE
        cameras = [random_camera(rng, up="z") for _ in range(self.views)]
        return {
            "images": np.stack([render(*mesh, camera, size) for camera in cameras])[:, None].repeat(3, axis=1),
            "cameras": np.stack(cameras).astype(np.float32),
            "intrinsics": np.stack([intrinsics(1)] * self.views).astype(np.float32),
        }

    def solid(self, name: str) -> Solid:
        """Return the shape of this name."""
        return random_solid(name.partition("/")[0], self._generator(name))

    def read_near_points(self, shapes: ShapeSet) -> tuple[Tensor, Tensor]:
        """Sample query points of which half are near the surface."""
        points, occupancies = [], []
        for name in shapes.names:
            solid, rng = self.solid(name), self._generator(f"{name}/near")
            surface, _ = solid.sample_surface(self.stored_points // 2, rng)
            mixed = mix_uniform_and_near(surface, self.stored_points, rng)
            points.append(mixed.astype(np.float16))
            occupancies.append(np.packbits(solid.contains(mixed)))
        return torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(occupancies))
