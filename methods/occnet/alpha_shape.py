"""Baselines without training that reconstruct a solid from an input cloud: convex hull and alpha shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull, Delaunay, QhullError
from torch import nn

from datasets.checks import check_positive
from methods.occnet.base import ShapeReconstruction
from methods.occnet.evaluation import Reconstruction
from methods.occnet.mesh import EMPTY_MESH, Mesh


class AlphaShape(ShapeReconstruction):
    """Alpha shape of the input cloud; the convex hull if alpha is infinite.

    Args:
        network: not used.
        alpha: largest radius of the circumscribed sphere of a tetrahedron of the Delaunay triangulation that belongs to
            the solid, in edges of the unit cube.
        **kwargs: arguments of `ShapeReconstruction`.
    """

    def __init__(self, network: nn.Module | None = None, alpha: float = math.inf, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("method", alpha=alpha)
        self.alpha = alpha

    def prepare(self, data: Any) -> None:
        """Check that the inputs are point clouds.

        Raises:
            ValueError: if they are not.
        """
        if data.inputs != "pointcloud":
            raise ValueError(f"this method needs dataset.inputs=pointcloud, got {data.inputs}")

    def reconstruct(self, batch: Any) -> Reconstruction:
        """Return the boundary of the solid."""
        points = batch.inputs[0].cpu().numpy().astype(np.float64)
        return Reconstruction(convex_hull(points) if math.isinf(self.alpha) else alpha_shape(points, self.alpha))


def convex_hull(points: np.ndarray) -> Mesh:
    """Return the convex hull of points (n, 3); an empty mesh if they lie in a plane."""
    try:
        hull = ConvexHull(points)
    except QhullError:
        return EMPTY_MESH
    return _orient_outward(points, hull.simplices, points.mean(0)[None])


def alpha_shape(points: np.ndarray, alpha: float) -> Mesh:
    """Return the boundary of the Delaunay tetrahedra whose circumscribed spheres have at most radius `alpha`."""
    try:
        cells = Delaunay(points).simplices
    except QhullError:
        return EMPTY_MESH
    cells = cells[circumradius(points[cells]) <= alpha]
    faces = cells[:, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]].reshape(-1, 3)
    apexes = cells.reshape(-1)
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    boundary = first[count == 1]
    return _orient_outward(points, faces[boundary], points[apexes[boundary]]) if len(boundary) else EMPTY_MESH


def circumradius(corners: np.ndarray) -> np.ndarray:
    """Return the radius of the sphere through the corners of each tetrahedron, infinite for a flat one.

    Args:
        corners: corners (n, 4, 3).

    Returns:
        Radii (n,).
    """
    edges = corners[:, 1:] - corners[:, :1]
    volume = np.linalg.det(edges)  # six times that of the tetrahedron
    a, b, c = edges.transpose(1, 0, 2)
    squares = (edges**2).sum(-1)[..., None].transpose(1, 0, 2)
    center = squares[0] * np.cross(b, c) + squares[1] * np.cross(c, a) + squares[2] * np.cross(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.linalg.norm(center, axis=1) / (2 * np.abs(volume))
    return np.where(np.isfinite(radius), radius, np.inf)


def _orient_outward(points: np.ndarray, faces: np.ndarray, behind: np.ndarray) -> Mesh:
    """Orient faces so that each has its point of `behind`, (F, 3) or (1, 3), on its back; drop unused vertices."""
    a, b, c = points[faces].transpose(1, 0, 2)
    inward = np.einsum("ij,ij->i", np.cross(b - a, c - a), behind - a) > 0
    faces = np.where(inward[:, None], faces[:, ::-1], faces)
    used, index = np.unique(faces, return_inverse=True)
    return Mesh(points[used].astype(np.float32), index.reshape(-1, 3).astype(np.int64))
