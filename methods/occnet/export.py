"""Reconstructions as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from methods.occnet.surface import Mesh

FORMATS = ("ply", "obj", "glb")


def write_mesh(path: Path, mesh: Mesh) -> None:
    """In the format that the file's name says, with normals at the vertices where the mesh has them.

    A mesh without faces makes a PLY or OBJ file without them, and no GLB, which cannot hold it.
    """
    import trimesh

    if mesh.empty and path.suffix == ".glb":
        return
    if mesh.empty:
        path.write_text(EMPTY[path.suffix])
        return
    trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False).export(path)


def write_points(path: Path, points: np.ndarray) -> None:
    """points: (n, 3), as PLY."""
    import trimesh

    trimesh.PointCloud(points).export(path)


EMPTY = {
    ".ply": "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 0\nproperty list uchar int vertex_indices\nend_header\n",
    ".obj": "# no surface\n",
}
