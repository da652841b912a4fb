"""Meshes against trimesh and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import label

from methods.occnet.extraction import field_normals, marching_cubes, refine, simplify
from methods.occnet.mesh import EMPTY_MESH, Mesh, voxel_mesh
from methods.occnet.mise import Grid, dense_grid

RADIUS = 0.4


def sphere_logits(p: torch.Tensor) -> torch.Tensor:
    return 20 * (RADIUS - p.norm(dim=-1))


def sphere_mesh(resolution: int = 32) -> Mesh:
    return marching_cubes(dense_grid(lambda p: RADIUS - np.linalg.norm(p, axis=1), resolution), 0.0)


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_the_level_set_is_closed_and_faces_outwards():
    mesh = as_trimesh(sphere_mesh(64))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.01)


def test_what_reaches_the_box_is_cut_off_flat_there():
    slab = dense_grid(lambda p: 0.1 - np.abs(p[:, 0]), 32)  # through the whole box
    mesh = as_trimesh(marching_cubes(slab, 0.0))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(0.2 * 1.1**2, rel=1e-4)
    whole = as_trimesh(marching_cubes(dense_grid(lambda p: np.full(len(p), 3.0), 8), 0.0))
    assert whole.is_watertight
    assert whole.volume == pytest.approx(1.1**3, rel=1e-5)
    assert whole.area_faces.min() > 0
    assert whole.euler_number == 2
    assert len(simplify(Mesh(whole.vertices, whole.faces), 20).faces) <= 20


def test_where_nothing_is_inside_there_is_no_mesh():
    assert marching_cubes(Grid(np.full((9, 9, 9), -1.0, np.float32), 729), 0.0) is EMPTY_MESH
    assert EMPTY_MESH.empty


@pytest.mark.parametrize("seed", range(3))
def test_the_blocky_mesh_bounds_the_occupied_voxels(seed):
    occupied = np.random.default_rng(seed).random((6, 6, 6)) < 0.4
    mesh = as_trimesh(voxel_mesh(occupied))
    assert mesh.volume == pytest.approx(occupied.sum() / 6**3, rel=1e-5)
    faces = sum(np.abs(np.diff(np.pad(occupied, 1).astype(int), axis=axis)).sum() for axis in range(3))
    assert len(mesh.faces) == 2 * faces
    assert mesh.area == pytest.approx(faces / 6**2, rel=1e-5)
    edges = np.sort(mesh.edges, axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses % 2 == 0).all()  # closed
    assert set(np.unique(mesh.vertices.round(6))) <= set(np.round(np.arange(7) / 6 - 0.5, 6))


def test_the_blocky_mesh_of_connected_voxels_contains_their_centres():
    occupied = np.zeros((5, 5, 5), bool)
    occupied[1:4, 1:3, 2] = occupied[3, 2, 2:5] = True
    assert label(occupied)[1] == 1
    mesh = as_trimesh(voxel_mesh(occupied))
    assert mesh.is_watertight
    centres = (np.stack(np.mgrid[:5, :5, :5], -1).reshape(-1, 3) + 0.5) / 5 - 0.5
    assert np.array_equal(mesh.contains(centres), occupied.ravel())


def test_simplification_keeps_the_sphere_with_fewer_faces():
    pytest.importorskip("fast_simplification")
    mesh = simplify(sphere_mesh(32), 500)
    assert len(mesh.faces) <= 510
    assert as_trimesh(mesh).volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.03)
    assert simplify(mesh, 10_000) is mesh


def test_refinement_moves_vertices_towards_the_level_set():
    rough = sphere_mesh(16)
    rough = rough._replace(vertices=(rough.vertices * 1.02).astype(np.float32))
    fine = refine(rough, sphere_logits, threshold=0.5, steps=60)
    before, after = (np.abs(np.linalg.norm(m.vertices, axis=1) - RADIUS).mean() for m in (rough, fine))
    assert after < 0.5 * before
    assert np.array_equal(fine.faces, rough.faces)
    again = refine(rough, sphere_logits, threshold=0.5, steps=60)
    assert np.array_equal(again.vertices, fine.vertices)


def test_refinement_turns_faces_towards_the_field():
    """The second term alone: the level lies where the vertices are, on average, so that normals must do the work."""
    rough = sphere_mesh(16)
    drawn = np.random.default_rng(0)
    rough = rough._replace(vertices=(rough.vertices + drawn.normal(0, 0.004, rough.vertices.shape)).astype(np.float32))

    def disagreement(mesh):
        tri = as_trimesh(mesh)
        centres = tri.triangles_center / np.linalg.norm(tri.triangles_center, axis=1, keepdims=True)
        return np.square(tri.face_normals - centres).sum(1).mean()

    heavy = refine(rough, sphere_logits, threshold=0.5, steps=100, weight=10.0)
    assert disagreement(heavy) < 0.6 * disagreement(rough)


def test_normals_of_the_field_point_outwards():
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = field_normals(points, sphere_logits, chunk=16)
    np.testing.assert_allclose(found, points / np.linalg.norm(points, axis=1, keepdims=True), atol=1e-5)
