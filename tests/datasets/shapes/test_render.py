"""Pictures of meshes beside rays cast by trimesh, and cameras."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from datasets.shapes.render import AMBIENT, cameras_in_unit_cube, intrinsics, random_camera, render


def camera_of(seed: int, up: str = "y") -> np.ndarray:
    return random_camera(np.random.default_rng(seed), up)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_seen_is_what_rays_hit(seed):
    """Silhouette and shading of a ring, of which parts hide others, from the middle of every pixel."""
    mesh = trimesh.creation.torus(0.35, 0.15, major_sections=24, minor_sections=12)
    camera, size = camera_of(seed), 40
    picture = render(mesh.vertices, mesh.faces, camera, size).astype(float) / 255
    assert picture.shape == (size, size)

    finer = 2 * size  # pixels are means of four
    column, row = np.meshgrid(np.arange(finer) + 0.5, np.arange(finer) + 0.5)
    rays = np.stack([column, row, np.ones_like(row)], -1).reshape(-1, 3) @ np.linalg.inv(intrinsics(finer)).T
    rotation, origin = camera[:, :3], -camera[:, :3].T @ camera[:, 3]
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)) @ rotation
    face, ray, place = mesh.ray.intersects_id(
        np.tile(origin, (len(rays), 1)), rays, multiple_hits=False, return_locations=True
    )
    expected = np.ones(finer * finer)
    middle = mesh.triangles_center[face] - origin
    facing = np.abs((mesh.face_normals[face] * middle).sum(1)) / np.linalg.norm(middle, axis=1)
    expected[ray] = 0.9 * (AMBIENT + (1 - AMBIENT) * facing)
    expected = expected.reshape(size, 2, size, 2).mean((1, 3))
    assert len(place) > 500
    assert (np.abs(picture - expected) < 0.01).mean() > 0.99


@pytest.mark.parametrize("up", ["x", "y", "z"])
@pytest.mark.parametrize("seed", range(4))
def test_cameras_look_down_at_the_middle(seed, up):
    camera, above = camera_of(seed, up), np.eye(3)["xyz".index(up)]
    rotation, shift = camera[:, :3], camera[:, 3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(shift[:2], 0, atol=1e-12)  # the origin is in the middle of the picture
    place = -rotation.T @ shift
    elevation = np.degrees(np.arcsin(place @ above / np.linalg.norm(place)))
    assert 25 <= elevation <= 30
    assert (rotation @ above)[1] < 0  # what is higher is higher in the picture, whose rows run down
    assert (rotation @ above)[0] == pytest.approx(0)


def test_cameras_of_a_mesh_see_the_unit_cube_the_same():
    drawn = np.random.default_rng(0)
    loc, scale, points = drawn.normal(size=3), 7.0, drawn.uniform(-0.5, 0.5, (30, 3))
    own = np.stack([camera_of(seed) for seed in range(3)])
    world = own.copy()  # of scale * point + loc, as `build` writes them
    world[:, :, 3] = scale * own[:, :, 3] - own[:, :, :3] @ loc
    found = cameras_in_unit_cube(world, loc, scale)
    np.testing.assert_allclose(found, own, atol=1e-12)
    np.testing.assert_allclose(cameras_in_unit_cube(5 * world, loc, scale), own, atol=1e-12)
    for camera, original in zip(found, world, strict=True):
        there = (scale * points + loc) @ original[:, :3].T + original[:, 3]
        here = points @ camera[:, :3].T + camera[:, 3]
        np.testing.assert_allclose(here[:, :2] / here[:, 2:], there[:, :2] / there[:, 2:])
    away = world.copy()
    away[1] *= -1
    with pytest.raises(ValueError, match="camera 1 does not see the shape"):
        cameras_in_unit_cube(away, loc, scale)
    world[2, :, :3] = 0
    with pytest.raises(ValueError, match="camera 2 does not see the shape"):
        cameras_in_unit_cube(world, loc, scale)


def test_nearer_faces_hide_those_behind_whatever_their_order():
    camera = np.column_stack([np.eye(3), [0, 0, 2]])
    near = np.array([[-0.2, -0.2, -0.1], [0.2, -0.2, -0.1], [0.0, 0.2, -0.1]])
    tilted = np.array([[-0.4, -0.4, 0.3], [0.4, -0.4, 0.3], [0.0, 0.4, 0.8]])
    vertices = np.concatenate([near, tilted])
    pictures = [render(vertices, np.array(faces), camera) for faces in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]])]
    assert (pictures[0] == pictures[1]).all()
    alone = render(vertices, np.array([[0, 1, 2]]), camera)
    assert (pictures[0][65:70, 65:70] == alone[65:70, 65:70]).all()
    assert len(np.unique(pictures[0][65:70, 65:70])) == 1


def test_an_empty_picture_is_white():
    far = np.array([[9.0, 9, 0], [9, 10, 0], [10, 9, 0]])
    assert (render(far, np.array([[0, 1, 2]]), np.column_stack([np.eye(3), [0, 0, 2]])) == 255).all()
