"""Pictures: where a shape lies in them, and what hides what."""

from __future__ import annotations

import numpy as np
import pytest

from methods.occnet.extraction import marching_cubes
from methods.occnet.mesh import EMPTY_MESH, voxel_mesh
from methods.occnet.mise import dense_grid, mise
from methods.occnet.render import render_mesh, render_points, render_surface, view_matrix

SIZE = 96


def ball(radius: float = 0.4):
    return marching_cubes(dense_grid(lambda p: radius - np.linalg.norm(p, axis=1), 32), 0.0)


def test_the_view_is_a_rotation_with_z_upwards():
    view = view_matrix(azimuth=20, elevation=30)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view) == pytest.approx(1)
    right, up, _ = view @ [0, 0, 1]
    assert right == pytest.approx(0)
    assert up > 0


def test_a_ball_is_a_disc_of_its_radius():
    mesh = ball()
    covered = render_mesh(mesh.vertices, mesh.faces, SIZE)[..., 3]
    expected = np.pi * (0.4 / 1.5) ** 2
    assert covered.mean() == pytest.approx(expected, rel=0.05)  # a fine pixel more all around
    points = np.random.default_rng(0).normal(size=(50_000, 3))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert render_surface(0.4 * normals, normals, SIZE)[..., 3].mean() == pytest.approx(expected, rel=0.09)
    assert (covered[40:56, 40:56] == 1).all()  # no gaps


def test_the_nearer_of_two_balls_hides_the_other():
    towards = view_matrix()[2]
    points = np.stack([0.3 * towards, -0.3 * towards])
    both, near = render_points(points, SIZE, radius=0.1), render_points(points[:1], SIZE, radius=0.1)
    np.testing.assert_allclose(both, near)


def test_nothing_is_an_empty_picture():
    assert not render_mesh(EMPTY_MESH.vertices, EMPTY_MESH.faces, SIZE).any()


def test_figures_of_the_grid_are_drawn():
    from methods.occnet.figures import plot_field_slices, plot_meshes, plot_refinement, render_input

    grid = mise(lambda p: 0.4 - np.linalg.norm(p, axis=1), 0.0, 32, 8)
    mesh = marching_cubes(grid, 0.0)
    titles = [ax.get_title() for ax in plot_refinement(grid, mesh).axes]
    assert titles == ["split at 8$^3$", "split at 16$^3$", "mesh at 32$^3$"]
    assert len(plot_field_slices(grid, 0.0).axes) == 4  # with the colour bar
    assert sum(bool(ax.images) for ax in plot_meshes([mesh] * 5).axes) == 5
    voxels = np.zeros((8, 8, 8))
    voxels[2:6, 2:6, 2:6] = 1
    block = voxel_mesh(voxels > 0.5)
    np.testing.assert_allclose(
        render_input(voxels)[..., 3], render_mesh(block.vertices, block.faces, 256)[..., 3], atol=1e-12
    )
    assert render_input(np.array(3)) is None


def test_pictures_lose_the_margin_that_none_of_them_uses():
    from methods.occnet.figures import crop_margins

    small, large, image = np.zeros((64, 64, 4)), np.zeros((64, 64, 4)), np.zeros((20, 20, 3))
    small[30:34, 30:34] = large[20:30, 30:34] = 1
    a, b, c = crop_margins([small, large, image])
    assert a.shape == b.shape == (32, 32, 4)
    assert a.sum() == small.sum()
    assert b.sum() == large.sum()
    assert c is image
