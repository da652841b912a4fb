"""Tests of whether points lie inside a watertight mesh, by the crossings of a line along z with its faces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from datasets.shapes.geometry import BoolArray, FloatArray, IntArray, expand_counts

HASH_RESOLUTION = 512  # cells per axis of the grid in which triangles are looked up
CHUNK = 1 << 21  # pairs of a point and a triangle that are tested at once


def contains(vertices: FloatArray, faces: IntArray, points: FloatArray) -> BoolArray:
    """Return whether each point lies inside a watertight mesh, by parity.

    A point is inside if the line along z through it crosses the mesh an odd number of times above it and below it. For
    a watertight mesh one implies the other; where they disagree the point counts as outside (as in the official code).
    Where parts of the mesh overlap, parity makes holes: see `union_contains`.

    Args:
        vertices: positions (V, 3).
        faces: vertex indices (F, 3).
        points: points (N, 3).

    Returns:
        Booleans (N,).
    """
    points = np.asarray(points, np.float64)
    above, below = np.zeros((2, len(points)), np.int64)
    for point, higher, _ in _crossings(vertices, faces, points):
        above += np.bincount(point[higher], minlength=len(points))
        below += np.bincount(point[~higher], minlength=len(points))
    return (above % 2 == 1) & (below % 2 == 1)


def winding_numbers(vertices: FloatArray, faces: IntArray, points: FloatArray) -> tuple[IntArray, IntArray]:
    """Return how often a watertight mesh winds around each point.

    Faces above a point count 1 if their normal points up and -1 if it points down. If all normals point outwards, the
    sum is the number of parts that the point lies in; a part whose normals point inwards counts -1.

    Args:
        vertices: positions (V, 3).
        faces: vertex indices (F, 3), consistently oriented.
        points: points (N, 3).

    Returns:
        Winding numbers (N,), from the faces above and from the faces below. They agree up to rounding.
    """
    points = np.asarray(points, np.float64)
    above, below = np.zeros((2, len(points)), np.int64)
    for point, higher, sign in _crossings(vertices, faces, points):
        above += _signed_counts(point[higher], sign[higher], len(points))
        below -= _signed_counts(point[~higher], sign[~higher], len(points))
    return above, below


def union_contains(vertices: FloatArray, faces: IntArray, points: FloatArray) -> BoolArray:
    """Return whether each point lies inside the union of the parts of a mesh: where the winding number is positive.

    Parts whose normals point inwards are cavities. Points at which the faces above and below disagree count as outside.
    Arguments and result are those of `contains`.
    """
    above, below = winding_numbers(vertices, faces, points)
    return (above > 0) & (below > 0)


def voxelize(vertices: FloatArray, faces: IntArray, centers: FloatArray) -> BoolArray:
    """Return which voxels of a cube have their center inside the union of the parts of a mesh.

    Args:
        vertices: positions (V, 3).
        faces: vertex indices (F, 3).
        centers: centers (R^3, 3), as `voxel_centers` gives them.

    Returns:
        Occupancy (R, R, R), axes x, y, z.
    """
    side = round(len(centers) ** (1 / 3))
    return union_contains(vertices, faces, centers).reshape((side,) * 3)


def _signed_counts(index: IntArray, sign: NDArray[np.int8], length: int) -> IntArray:
    return np.bincount(index, weights=sign, minlength=length).astype(np.int64)


def _crossings(
    vertices: FloatArray, faces: IntArray, points: FloatArray
) -> Iterator[tuple[IntArray, BoolArray, NDArray[np.int8]]]:
    """Yield the crossings of the vertical line through each point with the faces, in chunks.

    A line that meets an edge or a vertex crosses one of the faces there and not the others, so that points on a lattice
    are no special case.

    Yields:
        Point, whether the crossing is above it, and 1 if the normal of the face points up or -1 if it points down.
    """
    corners = vertices[faces]
    for point, triangle in _candidates(corners, points):
        winding = _planar_winding(corners[triangle, :, :2], points[point, :2])
        hit = winding != 0
        point, triangle = point[hit], triangle[hit]
        yield point, _height(corners[triangle], points[point, :2]) > points[point, 2], winding[hit]


def _candidates(corners: FloatArray, points: FloatArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield pairs of a point and a triangle that may meet along z: all that do and few others, in chunks."""
    low, high = corners[..., :2].min((0, 1)), corners[..., :2].max((0, 1))
    resolution = int(np.clip(8 * len(corners) ** 0.5, 1, HASH_RESOLUTION))
    size = np.where(high > low, high - low, 1) / resolution

    def cells(positions: FloatArray) -> IntArray:
        return np.clip(((positions - low) / size).astype(np.int64), 0, resolution - 1)

    candidates = np.flatnonzero(((points[:, :2] >= low) & (points[:, :2] <= high)).all(1))
    if not len(candidates):
        return
    first, last = cells(corners[..., :2].min(1)), cells(corners[..., :2].max(1))
    wide, deep = (last - first + 1).T
    owner, place = expand_counts(wide * deep)
    cell = (first[owner, 0] + place // deep[owner]) * resolution + first[owner, 1] + place % deep[owner]
    table = coo_array((np.ones(len(owner), np.int8), (cell, owner)), shape=(resolution**2, len(corners))).tocsr()

    own = cells(points[candidates, :2]) @ [resolution, 1]
    counts = np.diff(table.indptr)[own]
    for part in np.split(np.arange(len(own)), np.flatnonzero(np.diff(np.cumsum(counts) // CHUNK)) + 1):
        owner, place = expand_counts(counts[part])
        yield candidates[part][owner], table.indices[table.indptr[own[part]][owner] + place].astype(np.int64)


def _planar_winding(triangles: FloatArray, points: FloatArray) -> NDArray[np.int8]:
    """Return the winding number of the n-th triangle (N, 3, 2) around the n-th point (N, 2).

    It is the number of edges that pass the point on the right going up, less those going down. Each edge is evaluated
    from its lower end, whatever triangle it belongs to, so that rounding is the same in both and triangles with a
    common edge agree.

    Returns:
        1 where the triangle covers the point and is counter-clockwise, -1 where it is clockwise, else 0: (N,).
    """
    x, y = points.T
    winding = np.zeros(len(points), np.int8)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        a, b = triangles[:, start], triangles[:, end]
        crossing = np.flatnonzero((a[:, 1] > y) != (b[:, 1] > y))
        a, b = a[crossing], b[crossing]
        down = a[:, 1] > b[:, 1]
        low, high = np.where(down[:, None], b, a), np.where(down[:, None], a, b)
        share = (y[crossing] - low[:, 1]) / (high[:, 1] - low[:, 1])
        right = x[crossing] < low[:, 0] + share * (high[:, 0] - low[:, 0])
        winding[crossing] += right * np.where(down, -1, 1).astype(np.int8)
    return winding


def _height(triangles: FloatArray, points: FloatArray) -> FloatArray:
    """Return z (N,) at which the vertical line through the n-th point (N, 2) meets the n-th triangle (N, 3, 3)."""
    a, b, c = (triangles[:, i] for i in range(3))
    normal = np.cross(b - a, c - a)
    vertical = normal[:, 2] == 0
    slope = normal[:, :2] / np.where(vertical, 1, normal[:, 2])[:, None]
    height = np.where(vertical, a[:, 2], a[:, 2] - ((points - a[:, :2]) * slope).sum(1))
    return np.clip(height, triangles[..., 2].min(1), triangles[..., 2].max(1))
