"""Geometry of meshes beside trimesh, embree's rays, winding numbers, exact integer arithmetic and closed formulas."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial import ConvexHull, QhullError, cKDTree
from scipy.stats import chisquare

from datasets.shapes.geometry import (
    BOX,
    area_normals,
    count_open_edges,
    merge_vertices,
    sample_surface,
    signed_volumes,
    unit_cube_frame,
    voxel_centers,
)
from datasets.shapes.inside_test import contains, voxelize

pcu = pytest.importorskip("point_cloud_utils", reason="winding numbers come from point-cloud-utils (.[mesh])")


def arrays_of(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)


def ring(turned: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A torus: not convex, of genus 1."""
    mesh = trimesh.creation.torus(0.3, 0.12, major_sections=40, minor_sections=20)
    if turned:
        mesh.apply_transform(trimesh.transformations.euler_matrix(0.4, 0.7, 0.2))
    return arrays_of(mesh)


def winding(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    return pcu.triangle_soup_fast_winding_number(vertices, faces.astype(np.int32), points)


@pytest.mark.parametrize("mesh", ["torus", "soup of two balls"])
def test_inside_is_what_rays_and_winding_numbers_say(mesh):
    if mesh == "torus":
        vertices, faces = ring()
    else:  # apart from each other: parity and winding differ where they overlap
        balls = [trimesh.creation.icosphere(3, 0.2).apply_translation((x, 0.05, 0.02)) for x in (-0.25, 0.25)]
        vertices, faces = arrays_of(trimesh.util.concatenate(balls))
    points = np.random.default_rng(0).uniform(-BOX, BOX, (20_000, 3))
    ours = contains(vertices, faces, points)
    assert 0 < ours.mean() < 0.5
    assert (ours == (winding(vertices, faces, points) > 0.5)).all()
    assert (ours == trimesh.Trimesh(vertices, faces, process=False).contains(points)).all()


def test_inside_of_a_fine_ball_is_that_of_the_formula():
    vertices, faces = arrays_of(trimesh.creation.icosphere(5, 0.4))
    points = np.random.default_rng(1).uniform(-BOX, BOX, (50_000, 3))
    distance = np.linalg.norm(points, axis=1)
    clear = np.abs(distance - 0.4) > 2e-3
    assert (contains(vertices, faces, points) == (distance < 0.4))[clear].all()


@pytest.mark.parametrize("steps", [4, 7, 8])
def test_points_on_a_lattice_that_meets_edges_and_corners(steps):
    """The lines through these points pass along edges, diagonals and corners of the box."""
    vertices, faces = arrays_of(trimesh.creation.box((0.5, 0.5, 0.5)))
    axis = np.linspace(-0.5, 0.5, 4 * steps + 1)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    largest = np.abs(points).max(1)
    clear = ~np.isclose(largest, 0.25)
    assert (contains(vertices, faces, points) == (largest < 0.25))[clear].all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rounded_points_straight_above_rounded_vertices(dtype):
    vertices, faces = ring()
    vertices = vertices.astype(np.float16).astype(np.float64)
    drawn = np.random.default_rng(2)
    points = drawn.uniform(-BOX, BOX, (20_000, 3)).astype(dtype).astype(np.float64)
    points[:10_000, :2] = vertices[drawn.integers(len(vertices), size=10_000), :2]
    value = winding(vertices, faces, points)
    clear = np.abs(value - 0.5) > 0.05
    assert clear.mean() > 0.99
    assert (contains(vertices, faces, points) == (value > 0.5))[clear].all()


@settings(max_examples=60)
@given(
    arrays.arrays(np.int64, st.tuples(st.integers(4, 12), st.just(3)), elements=st.integers(-6, 6)),
    arrays.arrays(np.int64, (60, 3), elements=st.integers(-13, 13)),
)
def test_inside_of_convex_bodies_is_exact_to_the_integer(corners, doubled):
    """Corners at integers and points at halves of integers: everything that can be degenerate is."""
    try:
        hull = ConvexHull(corners)
    except QhullError:
        assume(False)
    faces = hull.simplices.astype(np.int64)
    middle = corners.mean(0)
    outward = np.einsum("fi,fi->f", area_normals(corners, faces), corners[faces[:, 0]] - middle) > 0
    faces[~outward] = faces[~outward][:, ::-1]
    a, b, c = (2 * corners[faces[:, i]] for i in range(3))
    side = np.einsum("fi,fpi->fp", np.cross(b - a, c - a), doubled[None] - a[:, None])  # integers
    flat = (np.cross(b - a, c - a) == 0).all(1)
    clear = ~((side[~flat] >= 0).any(0) & (side[~flat] <= 0).all(0))  # not on the surface
    inside = (side[~flat] < 0).all(0)
    ours = contains(corners.astype(float), faces, doubled / 2)
    assert (ours == inside)[clear].all()


def test_what_rays_in_both_directions_contradict_is_outside():
    vertices, faces = arrays_of(trimesh.creation.box((0.8, 0.8, 0.8)))
    top = (area_normals(vertices, faces)[:, 2] > 0).nonzero()[0]
    points = np.random.default_rng(3).uniform(-0.3, 0.3, (500, 3))
    assert contains(vertices, faces, points).all()
    assert not contains(vertices, np.delete(faces, top, 0), points).any()


def test_points_outside_the_mesh_and_none_at_all():
    vertices, faces = ring()
    assert not contains(vertices, faces, np.array([[5.0, 0, 0], [0, 0, 5], [0, 0, 0]])).any()
    assert contains(vertices, faces, np.empty((0, 3))).shape == (0,)


def test_many_faces_on_few_points_are_looked_up_in_chunks(monkeypatch):
    vertices, faces = ring()
    points = np.random.default_rng(4).uniform(-BOX, BOX, (3000, 3))
    expected = contains(vertices, faces, points)
    monkeypatch.setattr("datasets.shapes.inside_test.CHUNK", 50)
    assert (contains(vertices, faces, points) == expected).all()


def test_open_edges_volume_and_normals_beside_trimesh():
    for turned in (False, True):
        vertices, faces = ring(turned)
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        assert mesh.is_watertight
        assert count_open_edges(faces) == 0
        assert signed_volumes(vertices, faces).sum() == pytest.approx(mesh.volume)
        assert signed_volumes(vertices, faces[:, ::-1]).sum() == pytest.approx(-mesh.volume)
        normals = area_normals(vertices, faces)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), mesh.area_faces)
        np.testing.assert_allclose(normals / mesh.area_faces[:, None], mesh.face_normals, atol=1e-8)


def test_one_face_less_leaves_three_edges_open():
    _, faces = ring()
    assert count_open_edges(faces[1:]) == 3
    assert count_open_edges(np.concatenate([faces, faces[:1]])) == 3


def test_split_vertices_are_merged():
    vertices, faces = ring()
    soup = vertices[faces].reshape(-1, 3)
    alone = np.arange(len(soup)).reshape(-1, 3)
    assert count_open_edges(alone) == len(soup)
    places, joined = merge_vertices(np.concatenate([soup, [[9.0, 9, 9]]]), np.concatenate([alone, [[0, 0, 1]]]))
    assert len(places) == len(vertices)
    assert count_open_edges(joined) == 0
    assert signed_volumes(places, joined).sum() == pytest.approx(signed_volumes(vertices, faces).sum())


def test_unit_cube():
    vertices = np.array([[1.0, 2, 3], [5, 4, 4], [3, 3, 3.5]])
    centre, edge = unit_cube_frame(vertices)
    np.testing.assert_allclose(centre, [3, 3, 3.5])
    assert edge == 4
    moved = (vertices - centre) / edge
    np.testing.assert_allclose(moved.max(0), -moved.min(0))
    assert np.ptp(moved, axis=0).max() == 1


def test_surface_points_are_on_the_surface_and_even():
    vertices, faces = ring()
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points, normals = sample_surface(vertices, faces, 40_000, np.random.default_rng(5))
    distance, face, _ = pcu.closest_points_on_mesh(points, vertices, faces.astype(np.int32))
    assert distance.max() < 1e-7
    np.testing.assert_allclose(np.einsum("pi,pi->p", normals, mesh.face_normals[face]), 1, atol=0.2)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    drawn = np.bincount(face, minlength=len(faces))
    assert chisquare(drawn, mesh.area_faces / mesh.area * len(points)).pvalue > 1e-4
    # Within one large triangle too.
    corner, _ = sample_surface(np.eye(3), np.array([[0, 1, 2]]), 40_000, np.random.default_rng(6))
    np.testing.assert_allclose(corner.mean(0), 1 / 3, atol=5 * (1 / 18 / 40_000) ** 0.5)
    np.testing.assert_allclose(corner.var(0), 1 / 18, rtol=0.03)


def test_voxels_are_those_whose_centre_is_inside():
    vertices, faces = ring()
    voxels = voxelize(vertices, faces, voxel_centers(32))
    centres = voxel_centers(32)
    assert np.allclose(centres[1] - centres[0], [0, 0, 1 / 32])
    assert np.allclose(centres[[0, -1]], [[-0.5 + 1 / 64] * 3, [0.5 - 1 / 64] * 3])
    assert (voxels.ravel() == (winding(vertices, faces, centres) > 0.5)).all()
    x, y, z = np.argwhere(voxels)[7]
    nearest = cKDTree(centres).query((np.array([x, y, z]) + 0.5) / 32 - 0.5)[1]
    assert voxels.ravel()[nearest]


def test_real_meshes_beside_winding_numbers(runner_data):
    path = runner_data / "meshes" / "psb380_simplified.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path) as kept:
        for number in (21, 105, 150, 302, 332, 352):
            vertices, faces = merge_vertices(kept[f"v{number}"].astype(float), kept[f"f{number}"].astype(np.int64))
            assert count_open_edges(faces) == 0
            centre, edge = unit_cube_frame(vertices)
            vertices = (vertices - centre) / edge
            points = np.random.default_rng(number).uniform(-BOX, BOX, (20_000, 3))
            points = points.astype(np.float16).astype(np.float64)
            value = winding(vertices, faces, points)
            clear = np.abs(value - 0.5) > 0.02
            assert (contains(vertices, faces, points) == (value > 0.5))[clear].all()
