"""Solids told by points: by samples of a surface with normals, or spanned by a cloud."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label, minimum_position
from scipy.spatial import ConvexHull, Delaunay, QhullError, cKDTree

from datasets.shapes.geometry import voxel_centres
from methods.occnet.surface import NOTHING, Mesh

VOTES = 5  # nearest samples that say whether a point is inside
FEW, NEAR = 4000, 0.08  # so many samples tell which points are further from the surface, in edges of the unit cube


def inside_of(surface: np.ndarray, normals: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which of the points lie inside a surface known by samples: (n,) bool.

    surface (m, 3), normals (m, 3) outward; points (n, 3). The nearest samples vote, each by the side of its tangent
    plane that the point is on, in proportion to the distance from that plane.
    """
    _, index = cKDTree(surface).query(points, k=VOTES)
    towards = points[:, None] - surface[index]
    return np.einsum("nki,nki->nk", towards, normals[index]).sum(1) < 0


def voxels_of(surface: np.ndarray, normals: np.ndarray, resolution: int) -> np.ndarray:
    """Which voxels of the unit cube have their centre inside, as `inside_of` says: (resolution,) * 3 bool.

    Voxels away from the surface that touch each other are on one side of it, which the nearest to it says for all:
    neighbours of points far away take long to find. The samples must be in random order.
    """
    centres = voxel_centres(resolution)
    few = surface[:: max(1, len(surface) // FEW)]
    distance = cKDTree(few).query(centres)[0].reshape((resolution,) * 3)
    parts, count = label(distance >= max(NEAR, 2 / resolution))
    chosen = np.ravel_multi_index(
        np.array(minimum_position(distance, parts, range(1, count + 1)), int).reshape(-1, 3).T, distance.shape
    )
    near = np.flatnonzero(parts == 0)
    asked = inside_of(surface, normals, centres[np.concatenate([chosen, near])])
    inside = np.concatenate([[False], asked[:count]])[parts]
    inside.reshape(-1)[near] = asked[count:]
    return inside


def look_up(occupied: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which of the points (n, 3) lie in an occupied voxel of the unit cube: (n,) bool. occupied: (R, R, R)."""
    side = len(occupied)
    cell = np.floor((points + 0.5) * side).astype(int)
    within = ((cell >= 0) & (cell < side)).all(1)
    return occupied[tuple(cell.clip(0, side - 1).T)] & within


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
