"""Triangle meshes of reconstructions, and meshes of voxels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mesh(NamedTuple):
    """Triangle mesh.

    Args:
        vertices: positions (V, 3) float32.
        faces: vertex indices (F, 3) int64, with outward normals.
        normals: unit normals of the vertices (V, 3), or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        """Return whether the mesh has no faces."""
        return not len(self.faces)


EMPTY_MESH = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))


def voxel_mesh(occupied: np.ndarray, box: float = 1.0) -> Mesh:
    """Return the boundary of occupied voxels, two triangles per quad, with shared corners.

    Args:
        occupied: occupancy (R, R, R) bool.
        box: edge of the cube around 0 that the voxels fill. The mesh is closed at its faces.
    """
    side = len(occupied)
    padded = np.pad(occupied, 1)
    quads = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1, 1):
            free = ~np.roll(padded, -sign, axis)
            cubes = np.argwhere(padded & free) - 1
            corners = np.repeat(cubes[:, None], 4, axis=1)
            corners[..., axis] += sign > 0
            around = [(0, 0), (1, 0), (1, 1), (0, 1)] if sign > 0 else [(0, 0), (0, 1), (1, 1), (1, 0)]
            for i, (du, dv) in enumerate(around):
                corners[:, i, u] += du
                corners[:, i, v] += dv
            quads.append(corners)
    corners = np.concatenate(quads).reshape(-1, 3)
    if not len(corners):
        return EMPTY_MESH
    n = side + 1
    places, index = np.unique((corners[:, 0] * n + corners[:, 1]) * n + corners[:, 2], return_inverse=True)
    quad = index.reshape(-1, 4)
    vertices = box * (np.stack(np.unravel_index(places, (n,) * 3), axis=1) / side - 0.5)
    return Mesh(vertices.astype(np.float32), np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]).astype(np.int64))
