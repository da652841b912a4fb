"""Exact solids beside meshes, sampling without formulas, and closed formulas of area and volume."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.stats import ks_2samp

from datasets.shapes.csg import CATEGORIES, Piece, Solid, random_solid
from datasets.shapes.primitives import Box, Capsule, Cone, Cylinder, Ellipsoid, Torus

PRIMITIVES = [
    Ellipsoid(0.7, 0.3, 0.5),
    Box(0.3, 0.5, 0.2),
    Cylinder(0.3, 0.6),
    Cone(0.4, 0.5),
    Capsule(0.25, 0.4),
    Torus(0.6, 0.2),
]
VOLUMES = [
    4 / 3 * np.pi * 0.7 * 0.3 * 0.5,
    8 * 0.3 * 0.5 * 0.2,
    np.pi * 0.3**2 * 1.2,
    np.pi * 0.4**2 * 1.0 / 3,
    np.pi * 0.25**2 * 0.8 + 4 / 3 * np.pi * 0.25**3,
    2 * np.pi**2 * 0.6 * 0.2**2,
]
named = pytest.mark.parametrize("primitive", PRIMITIVES, ids=lambda primitive: type(primitive).__name__)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("primitive", "volume"), zip(PRIMITIVES, VOLUMES, strict=True), ids=lambda b: type(b).__name__)
def test_volume_of_what_is_inside(primitive, volume):
    points = rng().uniform(-1, 1, (200_000, 3))
    share = volume / 8
    assert primitive.contains(points).mean() == pytest.approx(share, abs=5 * (share * (1 - share) / len(points)) ** 0.5)


@named
def test_surface_lies_between_inside_and_outside_and_normals_point_out(primitive):
    points, normals = primitive.sample_surface(5000, rng())
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert primitive.contains(points - 1e-6 * normals).all()
    assert not primitive.contains(points + 1e-6 * normals).any()


def mesh_of(primitive) -> trimesh.Trimesh:
    """The same primitive as a fine mesh, by trimesh."""
    fine = {"sections": 256}
    if isinstance(primitive, Ellipsoid):
        return trimesh.creation.icosphere(6).apply_scale(primitive.axes)
    if isinstance(primitive, Box):
        return trimesh.creation.box(2 * primitive.axes)
    if isinstance(primitive, Cylinder):
        return trimesh.creation.cylinder(primitive.radius, 2 * primitive.half, **fine)
    if isinstance(primitive, Cone):
        mesh = trimesh.creation.cone(primitive.radius, 2 * primitive.half, **fine)
        return mesh.apply_translation((0, 0, -primitive.half))
    if isinstance(primitive, Capsule):
        mesh = trimesh.creation.capsule(2 * primitive.half, primitive.radius, count=(128, 128))
        return mesh.apply_translation(-mesh.bounds.mean(0))
    return trimesh.creation.torus(primitive.ring, primitive.tube, major_sections=256, minor_sections=128)


@named
def test_area_and_evenness_of_the_surface_beside_a_mesh(primitive):
    mesh = mesh_of(primitive)
    assert primitive.area == pytest.approx(mesh.area, rel=2e-3)
    count = 8000
    ours, _ = primitive.sample_surface(count, rng(3))
    theirs, _ = trimesh.sample.sample_surface(mesh, count, seed=4)
    for measure in (lambda p: p[:, 2], lambda p: p[:, 0], lambda p: np.hypot(p[:, 0], p[:, 1])):
        steps = 2**-10  # the mesh lies a little within
        values, others = (np.round(measure(points) / steps) for points in (ours, np.asarray(theirs)))
        assert ks_2samp(values, others).pvalue > 1e-3


@named
def test_support_is_the_farthest_point_along_a_direction(primitive):
    points, _ = primitive.sample_surface(100_000, rng(4))
    directions = rng(5).normal(size=(20, 3))
    directions = np.concatenate([directions, np.eye(3), -np.eye(3)])
    farthest = (points @ directions.T).max(0)
    reach = primitive.support(directions)
    assert (farthest <= reach + 1e-9).all()
    np.testing.assert_allclose(farthest, reach, atol=0.03)


def test_pieces_are_added_and_taken_away_in_their_order():
    block, hole, plug = Box(0.5, 0.5, 0.5), Cylinder(0.2, 0.6), Ellipsoid(0.1, 0.1, 0.1)
    points = np.array([[0.0, 0, 0], [0.15, 0, 0], [0.4, 0, 0], [0.6, 0, 0]])
    pierced = Solid((Piece(block), Piece(hole, hole=True)))
    assert pierced.contains(points).tolist() == [False, False, True, False]
    plugged = Solid((*pierced.pieces, Piece(plug)))
    assert plugged.contains(points).tolist() == [True, False, True, False]


def test_the_surface_of_what_is_put_together():
    """A block with a hole through it: 24 faces' area less two discs, plus the wall of the hole."""
    solid = Solid((Piece(Box(0.5, 0.5, 0.5)), Piece(Cylinder(0.2, 0.7), hole=True)))
    points, normals = solid.sample_surface(40_000, rng(6))
    wall = np.isclose(np.hypot(points[:, 0], points[:, 1]), 0.2)
    area = 2 * np.pi * 0.2
    share = area / (6 - 2 * np.pi * 0.2**2 + area)
    assert wall.mean() == pytest.approx(share, abs=5 * (share * (1 - share) / len(points)) ** 0.5)
    assert (np.sign(np.einsum("pi,pi->p", normals[wall, :2], points[wall, :2])) == -1).all()  # into the hole
    assert np.abs(points).max(1)[~wall] == pytest.approx(0.5)
    assert not (np.hypot(points[~wall, 0], points[~wall, 1]) < 0.2).any()


@pytest.mark.parametrize("category", CATEGORIES)
def test_random_solids_fill_the_unit_cube_with_a_surface_between_inside_and_outside(category):
    for seed in range(5):
        solid = random_solid(category, rng(seed))
        low, high = solid.bounds()
        np.testing.assert_allclose(low, -high, atol=1e-9)
        assert (high - low).max() == pytest.approx(1)
        points, normals = solid.sample_surface(4000, rng(seed))
        assert (np.abs(points) <= high + 1e-9).all()
        assert ((points.max(0) > high - 0.05) & (points.min(0) < low + 0.05)).all()
        assert solid.contains(points - 1e-7 * normals).all()
        assert not solid.contains(points + 1e-7 * normals).any()


@pytest.mark.parametrize("category", CATEGORIES)
def test_inside_and_surface_of_a_solid_agree_with_a_mesh_of_it(category):
    """Marching cubes of the inside, then winding numbers and areas of that mesh."""
    pcu = pytest.importorskip("point_cloud_utils", reason="winding numbers come from point-cloud-utils (.[mesh])")
    from skimage.measure import marching_cubes

    solid = random_solid(category, rng(7))
    axis = np.linspace(-0.6, 0.6, 97)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    filled = solid.contains(grid).reshape(97, 97, 97).astype(np.float32)
    vertices, faces, *_ = marching_cubes(filled, 0.5, gradient_direction="ascent")
    vertices = vertices / 96 * 1.2 - 0.6
    step = 1.2 / 96
    points, normals = solid.sample_surface(3000, rng(8))
    for side, inside in ((-1, True), (1, False)):
        moved = points + side * 1.8 * step * normals
        kept = solid.contains(moved) == inside  # not across a thin wall
        away = (
            pcu.closest_points_on_mesh(moved[kept], vertices.astype(np.float64), faces.astype(np.int32))[0] > step / 2
        )
        wound = pcu.triangle_soup_fast_winding_number(vertices.astype(np.float64), faces.astype(np.int32), moved[kept])
        assert kept.mean() > 0.8
        assert ((wound > 0.5) == inside)[away].all()
    distance = pcu.closest_points_on_mesh(points, vertices.astype(np.float64), faces.astype(np.int32))[0]
    assert distance.max() < 1.5 * step


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_mesh_for_pictures_is_near_the_surface(category):
    solid = random_solid(category, rng(10))
    vertices, faces = solid.mesh()
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    points = rng(11).uniform(-0.5, 0.5, (100_000, 3))
    assert mesh.volume == pytest.approx(solid.contains(points).mean(), rel=0.06)  # and outward
    surface, normals = solid.sample_surface(2000, rng(12))
    nearest, place = cKDTree(mesh.triangles_center).query(surface)
    assert np.quantile(nearest, 0.9) < 1.5 / 48
    assert np.median((mesh.face_normals[place] * normals).sum(1)) > 0.95


def test_turned_and_moved_pieces():
    turn = Rotation.from_euler("xyz", [0.3, 0.5, 0.7]).as_matrix()
    piece = Piece(Box(0.4, 0.2, 0.1), (0.1, -0.2, 0.3), turn)
    points = rng(9).uniform(-1, 1, (2000, 3))
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * [0.4, 0.2, 0.1]
    moved = corners @ turn.T + [0.1, -0.2, 0.3]
    edges = moved[[4, 2, 1]] - moved[0]
    own = (points - moved[0]) @ np.linalg.inv(edges)  # coordinates along the three edges
    assert (piece.contains(points) == ((own >= 0) & (own <= 1)).all(1)).all()
    low, high = Solid((piece,)).bounds()
    np.testing.assert_allclose(low, moved.min(0))
    np.testing.assert_allclose(high, moved.max(0))


def test_the_same_seed_gives_the_same_solid():
    first, again, other = (random_solid("cup", rng(seed)) for seed in (1, 1, 2))
    points = rng().uniform(-0.55, 0.55, (2000, 3))
    assert (first.contains(points) == again.contains(points)).all()
    assert (first.contains(points) != other.contains(points)).any()
