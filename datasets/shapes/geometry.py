"""Triangle meshes as arrays: vertices (V, 3) float64, faces (F, 3) int64, counter-clockwise seen from outside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

RESOLUTION = 32  # voxels a side
BOX = 0.55  # points are drawn from [-BOX, BOX]^3: the unit cube and a tenth of it around
NEAR_SIGMA = 0.01  # of points near the surface: distance from it along each axis, in edges of the unit cube
HASH = 512  # cells a side of the grid that triangles are looked up in
CHUNK = 1 << 21  # pairs of a point and a triangle at once


def voxel_centres(resolution: int) -> Array:
    """Of the voxels of the unit cube around the origin: (resolution^3, 3), the last axis running fastest."""
    steps = (np.arange(resolution) + 0.5) / resolution - 0.5
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)


def merged(vertices: Array, faces: Indices) -> tuple[Array, Indices]:
    """Vertices at the same place made one, those of no face left out, and faces with less than three corners too."""
    places, index = np.unique(vertices[faces.ravel()], axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    a, b, c = faces.T
    return places, faces[(a != b) & (b != c) & (c != a)]


def unit_cube(vertices: Array) -> tuple[Array, float]:
    """Centre of the bounding box (3,) and its longest edge: (v - centre) / edge lies in the unit cube around 0."""
    low, high = vertices.min(0), vertices.max(0)
    return (low + high) / 2, float((high - low).max())


def sides(faces: Indices) -> Indices:
    """The three edges of each face, (3 F, 2), the lower vertex first; what two faces share comes twice."""
    return np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)


def open_edges(faces: Indices) -> int:
    """How many edges belong to an odd number of faces; a mesh without any parts space into inside and outside."""
    edges = sides(faces)
    _, counts = np.unique(edges[:, 0] * (faces.max() + 1) + edges[:, 1], return_counts=True)
    return int((counts % 2).sum())


def volume(vertices: Array, faces: Indices) -> float:
    """Of a watertight mesh; negative where its faces are clockwise seen from outside."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def area_normals(vertices: Array, faces: Indices) -> Array:
    """Of each face, outward and as long as the face's area: (F, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


def surface_points(vertices: Array, faces: Indices, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
    """Points drawn evenly from the surface, and the unit normals of their faces: (count, 3) each."""
    normals = area_normals(vertices, faces)
    areas = np.linalg.norm(normals, axis=1)
    chosen = drawn.choice(len(faces), count, p=areas / areas.sum())
    a, b, c = (vertices[faces[chosen, i]] for i in range(3))
    u, v = drawn.uniform(size=(2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a + u * (b - a) + v * (c - a), normals[chosen] / areas[chosen, None]


def half_near(surface: Array, count: int, drawn: np.random.Generator) -> Array:
    """`count` points of which the first are even in the box, the others near the points (n, 3) of a surface."""
    near = surface + drawn.normal(0, NEAR_SIGMA, surface.shape)
    return np.concatenate([drawn.uniform(-BOX, BOX, (count - len(near), 3)), near])


def voxelise(vertices: Array, faces: Indices, resolution: int) -> NDArray[np.bool_]:
    """Which voxels of the unit cube have their centre inside a watertight mesh: (resolution,) * 3, axes x, y, z."""
    return contains(vertices, faces, voxel_centres(resolution)).reshape((resolution,) * 3)


def contains(vertices: Array, faces: Indices, points: Array) -> NDArray[np.bool_]:
    """Which points (N, 3) lie inside a mesh: (N,) bool.

    Those of which the line along z meets the mesh an odd number of times above and below; of a watertight mesh one
    implies the other, elsewhere what contradicts itself counts as outside (as in the code of Mescheder et al. 2019).
    A line that meets an edge or a vertex counts for one of the faces there and not for the others, so that points on a
    lattice are no special case.
    """
    points = np.asarray(points, np.float64)
    above, below = np.zeros((2, len(points)), np.int64)
    corners = vertices[faces]
    for which, triangles in _lookup(corners, points):
        met = _covers(corners[triangles, :, :2], points[which, :2])
        which, triangles = which[met], triangles[met]
        higher = _height(corners[triangles], points[which, :2]) > points[which, 2]
        above += np.bincount(which[higher], minlength=len(points))
        below += np.bincount(which[~higher], minlength=len(points))
    return (above % 2 == 1) & (below % 2 == 1)


def _lookup(corners: Array, points: Array) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of a point and a triangle, seen along z: all that may meet and not many others, in chunks."""
    low, high = corners[..., :2].min((0, 1)), corners[..., :2].max((0, 1))
    resolution = int(np.clip(8 * len(corners) ** 0.5, 1, HASH))
    size = np.where(high > low, high - low, 1) / resolution

    def cells(places: Array) -> Indices:
        return np.clip(((places - low) / size).astype(np.int64), 0, resolution - 1)

    candidates = np.flatnonzero(((points[:, :2] >= low) & (points[:, :2] <= high)).all(1))
    if not len(candidates):
        return
    first, last = cells(corners[..., :2].min(1)), cells(corners[..., :2].max(1))
    wide, deep = (last - first + 1).T
    owner, place = expand(wide * deep)
    cell = (first[owner, 0] + place // deep[owner]) * resolution + first[owner, 1] + place % deep[owner]
    table = coo_array((np.ones(len(owner), np.int8), (cell, owner)), shape=(resolution**2, len(corners))).tocsr()

    own = cells(points[candidates, :2]) @ [resolution, 1]
    counts = np.diff(table.indptr)[own]
    for part in np.split(np.arange(len(own)), np.flatnonzero(np.diff(np.cumsum(counts) // CHUNK)) + 1):
        owner, place = expand(counts[part])
        yield candidates[part][owner], table.indices[table.indptr[own[part]][owner] + place].astype(np.int64)


def expand(counts: Indices) -> tuple[Indices, Indices]:
    """[2, 0, 3] -> owners [0, 0, 2, 2, 2], places among their owner's [0, 1, 0, 1, 2]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _covers(triangles: Array, points: Array) -> NDArray[np.bool_]:
    """Does the n-th triangle (N, 3, 2) cover the n-th point (N, 2)? Triangles with a common edge agree about it.

    A point is covered if an odd number of edges passes it on the right. Each edge is looked at from its lower end,
    whatever triangle it belongs to, so that rounding is the same in both.
    """
    x, y = points.T
    odd = np.zeros(len(points), bool)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        a, b = triangles[:, start], triangles[:, end]
        crossing = (a[:, 1] > y) != (b[:, 1] > y)
        where = np.flatnonzero(crossing)
        a, b = a[where], b[where]
        down = (a[:, 1] > b[:, 1])[:, None]
        low, high = np.where(down, b, a), np.where(down, a, b)
        share = (y[where] - low[:, 1]) / (high[:, 1] - low[:, 1])
        odd[where] ^= x[where] < low[:, 0] + share * (high[:, 0] - low[:, 0])
    return odd


def _height(triangles: Array, points: Array) -> Array:
    """z at which the line along z through the n-th point (N, 2) meets the n-th triangle (N, 3, 3)."""
    a, b, c = (triangles[:, i] for i in range(3))
    normal = np.cross(b - a, c - a)
    upright = normal[:, 2] == 0
    slope = normal[:, :2] / np.where(upright, 1, normal[:, 2])[:, None]
    height = np.where(upright, a[:, 2], a[:, 2] - ((points - a[:, :2]) * slope).sum(1))
    return np.clip(height, triangles[..., 2].min(1), triangles[..., 2].max(1))
