"""Inputs of a shape network from files: point clouds and pictures of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from datasets.download import CorruptData
from datasets.shapes.shape_set import ShapeBatch

CLOUDS = (".ply", ".xyz", ".txt", ".npy", ".npz", ".off", ".obj", ".stl", ".glb")
TEXT = (".xyz", ".txt")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_cloud(path: Path, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Read a point cloud, or draw points uniformly from the surface of a mesh.

    Args:
        path: points as text (x y z in each line), NumPy (an array (n, 3), or `points` of an npz file), PLY; or a mesh.
        count: number of points that are drawn from a mesh.
        seed: seed of the drawing.

    Returns:
        Points (n, 3).

    Raises:
        CorruptData: the file holds no points.
    """
    try:
        points = _read(path, count, seed)
    except CorruptData:
        raise
    except Exception as error:  # the readers of so many formats raise errors of every kind
        raise CorruptData(f"{path} cannot be read as points: {str(error).splitlines()[0]}") from error
    if points.ndim != 2 or points.shape[1] < 3 or len(points) < 3 or not np.isfinite(points[:, :3]).all():
        raise CorruptData(f"{path} must hold three or more finite points (x, y, z), has an array {points.shape}")
    return points[:, :3].astype(np.float64)


def _read(path: Path, count: int, seed: int) -> NDArray[np.float64]:
    if path.suffix in TEXT:
        return np.loadtxt(path, ndmin=2)
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            if "points" not in arrays:
                raise CorruptData(f"{path} has no array `points`; it has {', '.join(arrays)}")
            return arrays["points"]
    import trimesh

    loaded: Any = trimesh.load(path, process=False)
    mesh = loaded.to_mesh() if isinstance(loaded, trimesh.Scene) else loaded
    if len(getattr(mesh, "faces", ())):
        return trimesh.sample.sample_surface(mesh, count, seed=seed)[0]
    return np.asarray(mesh.vertices)


class Frame:
    """Frame of a point cloud: the box around it, whose longest edge becomes that of the unit cube.

    Args:
        points: points (n, 3).

    Raises:
        ValueError: all points are the same.
    """

    def __init__(self, points: NDArray[np.float64]) -> None:
        low, high = points.min(0), points.max(0)
        self.centre, self.scale = (low + high) / 2, float((high - low).max())
        if not self.scale:
            raise ValueError("all points of a cloud are the same")

    def to_unit(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points in the unit cube around 0."""
        return (points - self.centre) / self.scale

    def from_unit(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return points of the unit cube in the frame of the file."""
        return np.asarray(points, dtype=np.float64) * self.scale + self.centre


def cloud_input(points: NDArray[np.float64], count: int, seed: int = 0) -> Tensor:
    """Draw the points that an encoder sees: (1, count, 3) float32; some repeat if there are too few."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(points), count, replace=len(points) < count)
    return torch.from_numpy(points[np.sort(chosen)]).float()[None]


def picture_input(image: Tensor, size: int | None) -> Tensor:
    """Return a picture (3, H, W) uint8 as an encoder sees it: (1, 3, size, size) in [0, 1]."""
    picture = image[None].float() / 255
    side = size or max(picture.shape[-2:])
    return interpolate(picture, (side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def unknown_shape(inputs: Tensor) -> ShapeBatch:
    """Return a batch of one shape of which the inputs alone are known; its only query point lies outside of it."""
    return ShapeBatch(
        points=torch.full((1, 1, 3), 0.5),
        occupancies=torch.zeros(1, 1),
        inputs=inputs,
        index=torch.zeros(1, dtype=torch.long),
        voxels=None,
        surface=None,
        normals=None,
    )
