"""Meshes of several closed parts, beside formulas of their unions and cavities, and winding numbers of a library."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from datasets.shapes import shapenet_format as fmt
from datasets.shapes.build import Recipe, build_model
from datasets.shapes.geometry import BOX, merge_vertices
from datasets.shapes.inside_test import contains, union_contains, winding_numbers
from datasets.shapes.meshes import MeshSource, PreparedMesh, prepare_mesh, sample_boundary
from datasets.shapes.orientation import drop_repeated_faces, orient_outward


def box(size: float = 1.0, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    return trimesh.creation.box((size,) * 3).apply_translation(at)


def ball(radius: float, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(3, radius).apply_translation(at)


def inverted(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    mesh = mesh.copy()
    mesh.invert()
    return mesh


def prepared(*parts: trimesh.Trimesh) -> PreparedMesh:
    """The parts as one mesh; its frame leads back to their coordinates."""
    mesh = trimesh.util.concatenate(parts)
    return prepare_mesh(np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64), watertight=False)


def original(mesh: PreparedMesh, points: np.ndarray) -> np.ndarray:
    return points * float(mesh.frame["scale"]) + mesh.frame["loc"]


def in_box(points: np.ndarray, size: float = 1.0, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    return (np.abs(points - at) < size / 2).all(1)


def check(mesh: PreparedMesh, inside) -> tuple[np.ndarray, np.ndarray]:
    """Compare occupancy with a formula, and points of the surface with occupancy; return the surface, original size."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-BOX, BOX, (20_000, 3))
    occupied = union_contains(mesh.vertices, mesh.faces, points)
    expected = inside(original(mesh, points))
    assert (occupied == expected).all()
    assert 0 < occupied.mean() < 1
    surface, normals = sample_boundary(mesh.vertices, mesh.faces, 2000, rng)
    for side, value in ((-1e-5, True), (1e-5, False)):
        assert (inside(original(mesh, surface + side * normals)) == value).mean() > 0.999
    return original(mesh, surface), normals


def test_parts_that_overlap_are_one_solid():
    at = (0.5, 0.15, 0.1)
    mesh = prepared(box(), box(at=at))
    surface, _ = check(mesh, lambda p: in_box(p) | in_box(p, at=at))
    assert not (in_box(surface, 0.999) | in_box(surface, 0.999, at)).any()  # none in the other part
    assert mesh.notes == []
    points = np.random.default_rng(0).uniform(-BOX, BOX, (20_000, 3))
    both = in_box(original(mesh, points)) & in_box(original(mesh, points), at=at)
    assert both.sum() > 500
    assert not contains(mesh.vertices, mesh.faces, points)[both].any()  # parity, as before, makes a hole


@pytest.mark.parametrize("turned", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_parts_whose_normals_point_inwards_are_turned(turned):
    places = [(0.0, 0.0, 0.0), (1.5, 0.0, 0.0), (1.9, 0.3, 0.2)]  # the last two overlap
    parts = [inverted(box(at=at)) if n in turned else box(at=at) for n, at in enumerate(places)]
    mesh = prepared(*parts)
    check(mesh, lambda p: np.any([in_box(p, at=at) for at in places], 0))
    assert mesh.notes == [f"turned the normals of {len(turned)} of 3 closed parts"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_part_inside_another_is_a_cavity_if_its_normals_point_inwards(turned):
    """That holds for a mesh all of whose normals point to the wrong side too."""
    outer, inner, core = box(), inverted(box(0.6)), box(0.2)
    parts = [inverted(part) if turned else part for part in (outer, inner, core)]
    mesh = prepared(*parts)
    surface, _ = check(mesh, lambda p: in_box(p) & ~in_box(p, 0.6) | in_box(p, 0.2))
    assert (np.abs(surface).max(1) < 0.55).sum() > 100
    cavities = "took as cavities, as their normals point inwards, 1 of 3 closed parts"
    assert mesh.notes == (["turned the normals of 3 of 3 closed parts"] if turned else []) + [cavities]


def test_a_part_inside_another_is_solid_if_its_normals_point_outwards():
    mesh = prepared(box(), box(0.4))
    surface, _ = check(mesh, in_box)
    assert np.abs(surface).max(1) == pytest.approx(0.5)
    assert mesh.notes == ["took as solid, so that they make no difference inside others, 1 of 2 closed parts"]


def test_a_hollow_part_that_is_inside_out_stays_hollow_beside_one_that_is_not():
    far = (3.0, 0.0, 0.0)
    mesh = prepared(box(), inverted(box(0.5)), inverted(box(at=far)), box(0.5, far))
    check(mesh, lambda p: in_box(p) & ~in_box(p, 0.5) | in_box(p, at=far) & ~in_box(p, 0.5, far))


def test_parts_that_touch_become_one():
    """Two boxes with the same wall between them, of the same triangles; then with other triangles."""
    left, right = box(), box().apply_transform(np.diag([-1.0, 1, 1, 1])).apply_translation((1, 0, 0))
    for scale in (1.0, 0.5):
        small = (
            right.copy().apply_translation((-0.5, 0, 0)).apply_scale((1, scale, scale)).apply_translation((0.5, 0, 0))
        )
        mesh = prepared(left, small)
        surface, _ = check(mesh, lambda p, s=scale: in_box(p) | (np.abs((p - [1, 0, 0]) / [1, s, s]) < 0.5).all(1))
        wall = np.isclose(surface[:, 0], 0.5, atol=1e-9) & (np.abs(surface[:, 1:]) < scale / 2).all(1)
        assert not wall.any()


def test_parts_that_share_an_edge_are_told_apart():
    at = (1.0, 1.0, 0.0)
    for second in (box(at=at), inverted(box(at=at))):
        check(prepared(box(), second), lambda p: in_box(p) | in_box(p, at=at))


@pytest.mark.parametrize("back", [True, False])
def test_a_surface_with_two_sides_counts_once(back):
    """Every face twice, with the same normal or with the opposite one, beside a part that has one side."""
    far = (2.0, 0.0, 0.0)
    mesh = prepared(box(), inverted(box()) if back else box(), box(at=far))
    check(mesh, lambda p: in_box(p) | in_box(p, at=far))
    assert mesh.notes[0] == "dropped 12 of 36 faces, which repeat others"


def test_faces_of_a_part_are_oriented_alike():
    mesh = trimesh.creation.torus(0.35, 0.1, major_sections=32, minor_sections=16)
    faces = np.asarray(mesh.faces, np.int64)
    flip = np.random.default_rng(0).uniform(size=len(faces)) < 0.4
    mixed = np.where(flip[:, None], faces[:, ::-1], faces)
    oriented = orient_outward(np.asarray(mesh.vertices, float), mixed)
    assert np.array_equal(oriented.faces, faces)  # order and corners are kept
    assert oriented[1:] == (1, 1, 0, 0)


def tube(path: np.ndarray, radius: float, sides: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A tube around a path (n, 3) that winds about z, with flat ends."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, [0.0, 0, 1])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, along)
    angle = 2 * np.pi * np.arange(sides) / sides
    rings = path[:, None] + radius * (np.cos(angle)[:, None] * side[:, None] + np.sin(angle)[:, None] * up[:, None])
    vertices = np.concatenate([rings.reshape(-1, 3), path[[0, -1]]])
    n, k = np.meshgrid(np.arange(len(path) - 1), np.arange(sides), indexing="ij")
    a, b = (n * sides + k).ravel(), (n * sides + (k + 1) % sides).ravel()
    walls = [np.stack([a, b, b + sides], 1), np.stack([a, b + sides, a + sides], 1)]
    k, last = np.arange(sides), (len(path) - 1) * sides
    start = np.stack([(k + 1) % sides, k, np.full(sides, len(path) * sides)], 1)
    end = np.stack([last + k, last + (k + 1) % sides, np.full(sides, len(path) * sides + 1)], 1)
    return vertices, np.concatenate([*walls, start, end])


def test_a_part_that_overlaps_itself_has_no_hole():
    """A tube that winds one and a half times around the same ring."""
    turn = np.linspace(0, 3 * np.pi, 150)
    path = np.stack([np.cos(turn), np.sin(turn), 0.02 * turn], 1)
    mesh = prepare_mesh(*tube(path, 0.3), watertight=False)
    assert mesh.notes == [] or mesh.notes == ["turned the normals of 1 of 1 closed parts"]
    points = np.random.default_rng(1).uniform(-BOX, BOX, (4000, 3))
    moved = original(mesh, points)
    distance = np.linalg.norm(moved[:, None] - path, axis=2).min(1)
    at_ends = np.minimum(*(np.linalg.norm(moved - path[place], axis=1) for place in (0, -1)))
    clear = (np.abs(distance - 0.3) > 0.02) & (at_ends > 0.35)
    assert (union_contains(mesh.vertices, mesh.faces, points) == (distance < 0.3))[clear].all()
    holes = (contains(mesh.vertices, mesh.faces, points) != (distance < 0.3)) & clear
    assert holes.sum() > 20  # by parity
    surface, normals = sample_boundary(mesh.vertices, mesh.faces, 500, np.random.default_rng(2))
    outside = original(mesh, surface + 0.01 * normals)
    away = np.linalg.norm(outside[:, None] - path, axis=2)
    assert (away.min(1) > 0.29)[(away[:, [0, -1]] > 0.35).all(1)].all()


def test_surfaces_with_one_side_are_refused():
    """The projective plane of six vertices: closed, every edge in two faces, but without an inside."""
    faces = np.array(
        [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5], [0, 5, 1], [1, 2, 4], [2, 3, 5], [3, 4, 1], [4, 5, 2], [5, 1, 3]]
    )
    vertices = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(ValueError, match=r"only one side.*; --watertight closes it"):
        prepare_mesh(vertices, faces, watertight=False)


def test_edges_that_do_not_say_what_is_inside_are_refused():
    """Two walls that cross in a box: the edge where they meet has four faces, none of which bounds a solid."""
    lower = trimesh.creation.box((1, 1, 1))
    vertices, faces = merge_vertices(np.asarray(lower.vertices, float), np.asarray(lower.faces, np.int64))
    fan = np.array([[0, 7, 1], [0, 7, 2], [0, 7, 4], [0, 7, 6], [1, 7, 2], [2, 0, 1]])
    with pytest.raises(ValueError, match="--watertight closes it"):
        prepare_mesh(vertices, np.concatenate([faces, fan]), watertight=False)


def test_winding_numbers_are_those_of_a_library():
    pcu = pytest.importorskip("point_cloud_utils", reason="winding numbers come from point-cloud-utils (.[mesh])")
    rng = np.random.default_rng(3)
    parts = [ball(r, at) for r, at in zip(rng.uniform(0.1, 0.25, 12), rng.uniform(-0.3, 0.3, (12, 3)), strict=True)]
    mesh = trimesh.util.concatenate([inverted(part) if n % 3 == 2 else part for n, part in enumerate(parts)])
    vertices, faces = np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64)
    points = rng.uniform(-BOX, BOX, (20_000, 3))
    above, below = winding_numbers(vertices, faces, points)
    expected = pcu.triangle_soup_fast_winding_number(vertices, faces.astype(np.int32), points)
    assert set(above) >= {-1, 0, 1, 2}
    assert np.array_equal(above, below)
    assert (above == np.rint(expected)).all()


@pytest.mark.parametrize("seed", range(8))
def test_random_parts_of_random_orientation_are_their_union(seed):
    """Balls of like size, so that none lies in another."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-0.5, 0.5, (5, 3))
    radii = rng.uniform(0.25, 0.3, 5)
    parts = [ball(r, at) for r, at in zip(radii, centers, strict=True)]
    mesh = prepared(*(inverted(part) if rng.uniform() < 0.5 else part for part in parts))
    points = rng.uniform(-BOX, BOX, (5000, 3))
    distance = np.linalg.norm(original(mesh, points)[:, None] - centers, axis=2) - radii
    clear = (np.abs(distance) > 0.01).all(1)
    assert (union_contains(mesh.vertices, mesh.faces, points) == (distance < 0).any(1))[clear].all()


def test_repeated_faces():
    faces = np.array([[0, 1, 2], [0, 2, 3], [2, 1, 0], [4, 5, 6]])
    assert drop_repeated_faces(faces).tolist() == [[0, 2, 3], [4, 5, 6]]  # a wall between two parts
    assert drop_repeated_faces(faces[[0, 2, 3]]).tolist() == [[0, 1, 2], [4, 5, 6]]  # a surface with two sides
    assert drop_repeated_faces(faces[:2]) is faces[:2] or drop_repeated_faces(faces[:2]).tolist() == faces[:2].tolist()


def test_files_of_overlapping_parts(tmp_path):
    """Occupancy, voxels, surface and points near it, as they are on disk."""
    at = (0.5, 0.15, 0.1)
    trimesh.util.concatenate([inverted(box()), box(at=at)]).export(tmp_path / "m.off")
    notes = build_model(MeshSource("c", "m", tmp_path / "m.off"), tmp_path / "m", Recipe(4000, near=True))
    assert notes == ["turned the normals of 1 of 2 closed parts"]
    loc, scale = fmt.read_frame(tmp_path / "m" / "points.npz")

    def inside(points: np.ndarray, margin: float = 0.0) -> np.ndarray:
        moved = points.astype(float) * scale + loc
        return in_box(moved, 1 + margin) | in_box(moved, 1 + margin, at)

    for name in ("points.npz", "points_surface.npz"):
        points, packed = fmt.read_points(tmp_path / "m" / name)
        occupied = np.unpackbits(packed)[:4000].astype(bool)
        clear = inside(points, 0.004) == inside(points, -0.004)  # rounding to float16
        assert (occupied == inside(points))[clear].all()
    surface, normals = fmt.read_point_cloud(tmp_path / "m" / "pointcloud.npz")
    assert not inside(surface, -0.004).any()
    assert not inside(surface.astype(float) + 0.01 * normals).any()
    voxels = np.unpackbits(fmt.read_voxels(tmp_path / "m" / "model.binvox"))
    steps = (np.arange(32) + 0.5) / 32 - 0.5
    centers = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    assert np.array_equal(voxels.astype(bool), inside(centers))
