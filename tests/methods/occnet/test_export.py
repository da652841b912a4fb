"""Files of reconstructions, read back by trimesh."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from methods.occnet.export import FORMATS, write_mesh, write_points
from methods.occnet.mesh import EMPTY_MESH, Mesh, voxel_mesh

CUBE = voxel_mesh(np.ones((2, 2, 2), bool))


@pytest.mark.parametrize("form", FORMATS)
def test_a_mesh_is_read_back_as_it_was(tmp_path, form):
    path = tmp_path / f"cube.{form}"
    write_mesh(path, CUBE)
    found = trimesh.load(path, process=False, force="mesh")
    np.testing.assert_allclose(found.vertices, CUBE.vertices, atol=1e-6)
    assert np.array_equal(found.faces, CUBE.faces)


@pytest.mark.parametrize("form", ["ply", "glb"])
def test_normals_at_the_vertices_are_kept(tmp_path, form):
    normals = CUBE.vertices / np.linalg.norm(CUBE.vertices + 1e-9, axis=1, keepdims=True)
    write_mesh(tmp_path / f"cube.{form}", Mesh(CUBE.vertices, CUBE.faces, normals))
    found = trimesh.load(tmp_path / f"cube.{form}", process=False, force="mesh")
    far = np.linalg.norm(CUBE.vertices, axis=1) > 0
    np.testing.assert_allclose(found.vertex_normals[far], normals[far], atol=1e-5)


def test_a_mesh_without_faces_is_a_file_without_them(tmp_path):
    for form in FORMATS:
        write_mesh(tmp_path / f"nothing.{form}", EMPTY_MESH)
    assert not (tmp_path / "nothing.glb").exists()
    header = (tmp_path / "nothing.ply").read_text().splitlines()
    assert header[0] == "ply"
    assert "element vertex 0" in header
    assert "element face 0" in header
    assert not [line for line in (tmp_path / "nothing.obj").read_text().splitlines() if not line.startswith("#")]


def test_points_are_read_back(tmp_path):
    points = np.random.default_rng(0).random((10, 3)).astype(np.float32)
    write_points(tmp_path / "points.ply", points)
    np.testing.assert_allclose(trimesh.load(tmp_path / "points.ply").vertices, points, atol=1e-6)
