"""Losses and look-ups of the baselines, and solids spanned by points, against scipy, trimesh and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import ConvexHull, cKDTree

from methods.occnet.alpha_shape import alpha_shape, circumradius, convex_hull
from methods.occnet.atlasnet import patch_grid
from methods.occnet.chamfer import squared_chamfer_distance
from methods.occnet.occupancy import inside_from_samples, lookup_voxels, voxelize_samples


def test_squared_chamfer_is_that_of_nearest_neighbours():
    a, b = torch.rand(2, 30, 3), torch.rand(2, 40, 3)
    expected = [
        (cKDTree(y).query(x)[0] ** 2).mean() + (cKDTree(x).query(y)[0] ** 2).mean()
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    torch.testing.assert_close(squared_chamfer_distance(a, b), torch.tensor(expected, dtype=torch.float32))

    def slope(loss):
        points = a.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(points), points)
        return found

    def whole(points):
        squared = (points[:, :, None] - b[:, None]).square().sum(-1)
        return (squared.amin(2).mean(1) + squared.amin(1).mean(1)).sum()

    torch.testing.assert_close(slope(lambda points: squared_chamfer_distance(points, b).sum()), slope(whole))


def test_points_are_looked_up_in_the_voxel_that_holds_them():
    drawn = np.random.default_rng(0)
    occupied, points = drawn.random((4, 4, 4)) < 0.5, drawn.uniform(-0.6, 0.6, (200, 3))
    for point, found in zip(points, lookup_voxels(occupied, points), strict=True):
        x, y, z = (int(np.floor((float(v) + 0.5) * 4)) for v in point)
        assert found == (all(0 <= v < 4 for v in (x, y, z)) and bool(occupied[x % 4, y % 4, z % 4]))


def test_points_outside_the_cube_are_outside_of_the_shape():
    """The published cast to integers truncates towards zero there: it takes points just below the cube for inside."""
    occupied, below = np.ones((4, 4, 4), bool), np.array([[-0.51, 0.0, 0.0], [0.0, -0.52, 0.1], [0.49, 0.2, 0.3]])
    assert ((below + 0.5) * 4).astype(int).min() == 0  # the published look-up
    assert lookup_voxels(occupied, below).tolist() == [False, False, True]


def test_the_grid_of_a_patch_covers_the_unit_square_once():
    uv, faces = patch_grid(5)
    flat = np.concatenate([uv.numpy(), np.zeros((25, 1))], 1)
    mesh = trimesh.Trimesh(flat, faces, process=False)
    assert mesh.area == pytest.approx(1)
    assert len(faces) == 2 * 4**2
    assert (mesh.face_normals[:, 2] > 0).all()


def test_the_hull_is_convex_closed_and_faces_outwards():
    points = np.random.default_rng(0).normal(size=(300, 3))
    found = convex_hull(points)
    mesh = trimesh.Trimesh(found.vertices, found.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(ConvexHull(points).volume, rel=1e-5)
    assert convex_hull(points * [1, 1, 0]).empty


def test_an_infinite_alpha_gives_the_hull_and_a_small_one_a_solid_with_its_hole():
    drawn = np.random.default_rng(0)
    points = drawn.uniform(-0.5, 0.5, (4000, 3))
    points = points[np.abs(points[:, :2]).max(1) > 0.2]  # a square tube
    whole, tube = alpha_shape(points, np.inf), alpha_shape(points, 0.15)
    assert trimesh.Trimesh(whole.vertices, whole.faces).volume == pytest.approx(ConvexHull(points).volume, rel=1e-5)
    volume = trimesh.Trimesh(tube.vertices, tube.faces, process=False).volume
    assert volume == pytest.approx(1 - 0.4**2, rel=0.12)
    assert alpha_shape(points, 1e-4).empty


def test_the_circumscribed_sphere_passes_through_all_corners():
    corners = np.random.default_rng(0).normal(size=(20, 4, 3))
    for tetrahedron, radius in zip(corners, circumradius(corners), strict=True):
        a = 2 * (tetrahedron[1:] - tetrahedron[0])
        centre = np.linalg.solve(a, (tetrahedron[1:] ** 2).sum(1) - (tetrahedron[0] ** 2).sum())
        assert radius == pytest.approx(np.linalg.norm(centre - tetrahedron[0]))
    flat = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]], float)
    assert circumradius(flat)[0] == np.inf


def test_samples_of_a_surface_tell_inside_from_outside():
    mesh = trimesh.creation.torus(0.3, 0.1, major_sections=64, minor_sections=48)
    surface, faces = trimesh.sample.sample_surface(mesh, 20_000, seed=0)
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20_000, 3))
    found = inside_from_samples(surface, mesh.face_normals[faces], points)
    assert (found != mesh.contains(points)).mean() < 0.001


def test_voxels_told_by_samples_are_those_of_the_solid():
    normals = np.random.default_rng(0).normal(size=(20_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    centre = (np.arange(24) + 0.5) / 24 - 0.5
    x, y, z = np.meshgrid(centre, centre, centre, indexing="ij")
    surface = 0.3 * normals * [1, 0.6, 1] + [0.1, 0, 0]  # an ellipsoid, off the centre
    turned = normals / [1, 0.6, 1]
    found = voxelize_samples(surface, turned / np.linalg.norm(turned, axis=1, keepdims=True), 24)
    exact = ((x - 0.1) / 0.3) ** 2 + (y / 0.18) ** 2 + (z / 0.3) ** 2 < 1
    assert (found != exact).sum() <= 0.005 * exact.sum()
