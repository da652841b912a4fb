"""What needs no training: voxels of the true shape, and solids spanned by an input cloud."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull, Delaunay, QhullError, cKDTree
from torch import nn

from datasets.shapes.geometry import voxel_centres
from methods.occnet.evaluation import Reconstruction
from methods.occnet.module import ShapeReconstruction
from methods.occnet.surface import NOTHING, Mesh, blocky


class Voxels(ShapeReconstruction):
    """The true shape's voxels as a blocky mesh: the row `Input` of the paper's table 3, the limit of a voxel method.

    Args:
        resolution: voxels a side of the unit cube. At 32 the data's own voxels are taken; at others a voxel is occupied
            where its centre lies inside, told by the stored points of the surface (see `inside_of`).
        The others: as of `ShapeReconstruction`.
    """

    def __init__(self, network: nn.Module | None = None, resolution: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if resolution < 1:
            raise ValueError(f"method.resolution must be positive, got {resolution}")
        self.resolution = resolution

    def reconstruct(self, batch: Any) -> Reconstruction:
        if batch.voxels is not None and batch.voxels.shape[-1] == self.resolution:
            return Reconstruction(blocky(batch.voxels[0].cpu().numpy() > 0.5))
        surface, normals = (x[0].cpu().numpy() for x in (batch.surface, batch.normals))
        inside = inside_of(surface, normals, voxel_centres(self.resolution))
        return Reconstruction(blocky(inside.reshape((self.resolution,) * 3)))


class Hull(ShapeReconstruction):
    """The solid that an input cloud spans: an alpha shape, which is the convex hull where alpha is infinite.

    Args:
        alpha: greatest radius of the sphere around a tetrahedron of the Delaunay triangulation that belongs to the
            solid, in edges of the unit cube.
        The others: as of `ShapeReconstruction`.
    """

    def __init__(self, network: nn.Module | None = None, alpha: float = math.inf, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not alpha > 0:
            raise ValueError(f"method.alpha must be positive, got {alpha}")
        self.alpha = alpha

    def prepare(self, data: Any) -> None:
        if data.inputs != "pointcloud":
            raise ValueError(f"this method spans a cloud of points; dataset.inputs is {data.inputs}")

    def reconstruct(self, batch: Any) -> Reconstruction:
        points = batch.inputs[0].cpu().numpy().astype(np.float64)
        return Reconstruction(convex_hull(points) if math.isinf(self.alpha) else alpha_shape(points, self.alpha))


def inside_of(surface: np.ndarray, normals: np.ndarray, points: np.ndarray, neighbours: int = 5) -> np.ndarray:
    """Which of the points lie inside a surface known by samples: (n,) bool.

    surface (m, 3), normals (m, 3) outward; points (n, 3). The nearest samples vote, each by the side of its tangent
    plane that the point is on, in proportion to the distance from that plane.
    """
    _, index = cKDTree(surface).query(points, k=neighbours)
    towards = points[:, None] - surface[index]
    return np.einsum("nki,nki->nk", towards, normals[index]).sum(1) < 0


def convex_hull(points: np.ndarray) -> Mesh:
    """points: (n, 3). Nothing where they lie in a plane."""
    try:
        hull = ConvexHull(points)
    except QhullError:
        return NOTHING
    return outward(points, hull.simplices, points.mean(0)[None])


def alpha_shape(points: np.ndarray, alpha: float) -> Mesh:
    """The boundary of the Delaunay triangulation's tetrahedra whose circumscribed sphere has at most radius alpha."""
    try:
        cells = Delaunay(points).simplices
    except QhullError:
        return NOTHING
    cells = cells[circumradius(points[cells]) <= alpha]
    faces = cells[:, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]].reshape(-1, 3)
    apexes = cells.reshape(-1)
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    boundary = first[count == 1]
    return outward(points, faces[boundary], points[apexes[boundary]]) if len(boundary) else NOTHING


def circumradius(corners: np.ndarray) -> np.ndarray:
    """Of the sphere through the corners of each tetrahedron, infinite for a flat one. corners: (n, 4, 3)."""
    edges = corners[:, 1:] - corners[:, :1]
    volume = np.linalg.det(edges)  # six times the tetrahedron's
    a, b, c = edges.transpose(1, 0, 2)
    squares = (edges**2).sum(-1)[..., None].transpose(1, 0, 2)
    centre = squares[0] * np.cross(b, c) + squares[1] * np.cross(c, a) + squares[2] * np.cross(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.linalg.norm(centre, axis=1) / (2 * np.abs(volume))
    return np.where(np.isfinite(radius), radius, np.inf)


def outward(points: np.ndarray, faces: np.ndarray, behind: np.ndarray) -> Mesh:
    """Faces turned so that each has its point of `behind`, (F, 3) or (1, 3), on its back; unused vertices left out."""
    a, b, c = points[faces].transpose(1, 0, 2)
    turned = np.einsum("ij,ij->i", np.cross(b - a, c - a), behind - a) > 0
    faces = np.where(turned[:, None], faces[:, ::-1], faces)
    used, index = np.unique(faces, return_inverse=True)
    return Mesh(points[used].astype(np.float32), index.reshape(-1, 3).astype(np.int64))
