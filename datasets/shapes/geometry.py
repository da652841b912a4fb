"""Triangle meshes as arrays: vertices (V, 3) float64, faces (F, 3) int64, counter-clockwise seen from outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

RESOLUTION = 32  # voxels per axis
BOX = 0.55  # points are drawn from [-BOX, BOX]^3: the unit cube with a padding of 0.1
NEAR_SIGMA = 0.01  # standard deviation of points near the surface along each axis, in edges of the unit cube


def voxel_centers(resolution: int) -> FloatArray:
    """Return the voxel centers of the unit cube around the origin.

    Args:
        resolution: number of voxels R per axis.

    Returns:
        Centers (R^3, 3); the last axis runs fastest.
    """
    steps = (np.arange(resolution) + 0.5) / resolution - 0.5
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)


def merge_vertices(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Merge vertices at the same position, and drop unused vertices and degenerate faces.

    A face is degenerate if two of its corners are the same vertex.
    """
    positions, index = np.unique(vertices[faces.ravel()], axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    a, b, c = faces.T
    return positions, faces[(a != b) & (b != c) & (c != a)]


def unit_cube_frame(vertices: FloatArray) -> tuple[FloatArray, float]:
    """Return the center (3,) and the longest edge of the bounding box.

    `(v - center) / edge` lies in the unit cube around the origin.
    """
    low, high = vertices.min(0), vertices.max(0)
    return (low + high) / 2, float((high - low).max())


def face_edges(faces: IntArray) -> IntArray:
    """Return the three undirected edges of each face, (3 F, 2), the lower vertex first. Shared edges are repeated."""
    return np.sort(directed_edges(faces), axis=1)


def directed_edges(faces: IntArray) -> IntArray:
    """Return the three edges of each face in the order of its corners, (3 F, 2)."""
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def edge_keys(edges: IntArray) -> IntArray:
    """Return one integer per edge (n, 2); equal edges have equal keys, and keys sort as edges do."""
    return edges[:, 0] * (edges.max(initial=0) + 1) + edges[:, 1]


def count_open_edges(faces: IntArray) -> int:
    """Return how many edges belong to an odd number of faces. A mesh is watertight if there are none."""
    _, counts = np.unique(edge_keys(face_edges(faces)), return_counts=True)
    return int((counts % 2).sum())


def signed_volumes(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Return the signed volume of the tetrahedron that each face spans with the origin, (F,).

    Their sum over a watertight mesh is its volume, negative if the normals point inwards.
    """
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.einsum("fi,fi->f", a, np.cross(b, c)) / 6


def area_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Return the normal of each face, as long as the area of the face: (F, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


def sample_surface(
    vertices: FloatArray, faces: IntArray, count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw points uniformly from the surface.

    `trimesh.sample.sample_surface` does the same with other random numbers; all published scores of this project rest
    on these.

    Returns:
        Points and the unit normals of their faces, (count, 3) each.
    """
    normals = area_normals(vertices, faces)
    areas = np.linalg.norm(normals, axis=1)
    chosen = rng.choice(len(faces), count, p=areas / areas.sum())
    a, b, c = (vertices[faces[chosen, i]] for i in range(3))
    u, v = rng.uniform(size=(2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a + u * (b - a) + v * (c - a), normals[chosen] / areas[chosen, None]


def mix_uniform_and_near(surface: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Draw query points, the last ones near a surface and the others uniformly from the box.

    Args:
        surface: points (n, 3) on the surface; n of the query points are these with noise of `NEAR_SIGMA`.
        count: number of query points.
        rng: random generator.

    Returns:
        Query points (count, 3).
    """
    near = surface + rng.normal(0, NEAR_SIGMA, surface.shape)
    return np.concatenate([rng.uniform(-BOX, BOX, (count - len(near), 3)), near])


def expand_counts(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Repeat each index as often as its count says, and number the repetitions.

    Returns:
        For counts [2, 0, 3]: owners [0, 0, 2, 2, 2] and places [0, 1, 0, 1, 2].
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
