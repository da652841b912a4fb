"""Reconstructions as mesh files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from methods.occnet.mesh import Mesh

FORMATS = ("ply", "obj", "glb")
EMPTY_FILES = {
    ".ply": "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 0\nproperty list uchar int vertex_indices\nend_header\n",
    ".obj": "# no surface\n",
}


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write a mesh in the format of the suffix of the file, with normals at the vertices if it has them.

    A mesh without faces gives a PLY or OBJ file without them, and no GLB file, which cannot be empty.
    """
    import trimesh

    if mesh.empty and path.suffix == ".glb":
        return
    if mesh.empty:
        path.write_text(EMPTY_FILES[path.suffix])
        return
    trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False).export(path)


def write_points(path: Path, points: np.ndarray) -> None:
    """Write points (n, 3) as PLY."""
    import trimesh

    trimesh.PointCloud(points).export(path)
