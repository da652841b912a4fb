"""MISE against the dense grid: the same values wherever the surface passes, and the same mesh, vertex for vertex."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

from methods.occnet.encoders import IndexEncoder
from methods.occnet.extraction import marching_cubes
from methods.occnet.mise import dense_grid, grid_positions, mise, subsample_grid
from methods.occnet.module import OccupancyNetworks, negative_elbo
from methods.occnet.occupancy_network import OccupancyNetwork


def sphere(p):
    return 0.4 - np.linalg.norm(p, axis=1)


def torus(p):
    return 0.08 - np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.3, p[:, 2])


def blobs(p):
    """Two balls that just touch, one of them cut by the box."""
    return np.maximum(0.2 - np.linalg.norm(p - [0.2, 0, 0.1], axis=1), 0.35 - np.linalg.norm(p - [-0.35, 0, 0], axis=1))


def box(p):
    return 0.3 - np.abs(p).max(axis=1)


def counted(field, seen):
    def wrapped(p):
        seen.append(p)
        return field(p)

    return wrapped


@pytest.mark.parametrize("field", [sphere, torus, blobs, box])
@pytest.mark.parametrize(("resolution", "coarse"), [(64, 16), (64, 32), (48, 12), (32, 32)])
def test_the_mesh_is_that_of_the_dense_grid_vertex_for_vertex(field, resolution, coarse):
    seen: list[np.ndarray] = []
    ours, whole = mise(counted(field, seen), 0.0, resolution, coarse), dense_grid(field, resolution)
    assert np.array_equal(ours.values > 0, whole.values > 0)
    a, b = marching_cubes(ours, 0.0), marching_cubes(whole, 0.0)
    assert np.array_equal(a.vertices, b.vertices)
    assert np.array_equal(a.faces, b.faces)
    asked = np.concatenate(seen)
    assert len(asked) == len(np.unique(asked, axis=0)) == ours.evaluated  # no point twice
    assert ours.evaluated < whole.evaluated or coarse == resolution


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_bulges_out_of_the_upper_faces_of_the_box_is_whole(axis):
    """A body that reaches out of the box between coarse corners of its face."""
    centre = np.full(3, 0.013)
    centre[axis] = 0.5

    def field(p):
        return 0.2 - np.linalg.norm((p - centre) * np.array([1.0, 1.3, 1.7]), axis=1)

    ours, whole = mise(field, 0.0, 64, 8), dense_grid(field, 64)
    assert np.array_equal(ours.values > 0, whole.values > 0)
    assert np.array_equal(marching_cubes(ours, 0.0).faces, marching_cubes(whole, 0.0).faces)


def test_the_dense_mesh_is_that_of_marching_cubes_alone():
    vertices, faces, _, _ = measure.marching_cubes(dense_grid(sphere, 32).values, 0.0)
    mesh = marching_cubes(dense_grid(sphere, 32), 0.0)
    np.testing.assert_allclose(mesh.vertices, 1.1 * (vertices / 32 - 0.5), atol=1e-6)
    assert {tuple(sorted(f)) for f in mesh.faces.tolist()} == {tuple(sorted(f)) for f in faces.tolist()}


def crossed(values: np.ndarray, threshold: float) -> np.ndarray:
    """Return which cubes (n, n, n) of a grid have corners (n + 1, n + 1, n + 1) on both sides of the threshold."""
    windows = np.lib.stride_tricks.sliding_window_view(values >= threshold, (2, 2, 2)).sum((3, 4, 5))
    return (windows > 0) & (windows < 8)


def seen_parts(values: np.ndarray, threshold: float, factor: int) -> np.ndarray:
    """Return the crossed cubes of the parts of the level set where a grid, coarser by a factor, has a crossed cube."""
    parts, _ = ndimage.label(crossed(values, threshold))
    coarse = np.kron(crossed(values[::factor, ::factor, ::factor], threshold), np.ones((factor,) * 3, bool))
    return (parts > 0) & np.isin(parts, parts[coarse])


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([-0.3, 0.0, 0.2]))
@example(seed=188, threshold=0.2).via("a tip at the edge of the box, too small for the coarse grid")
def test_values_are_exact_around_every_crossing_of_random_smooth_fields(seed, threshold):
    """Sums of waves a few coarse cells long: hardly ever is a part of the level set too small for the coarse grid."""
    drawn = np.random.default_rng(seed)
    waves, phases = drawn.uniform(-4, 4, (6, 3)), drawn.uniform(0, 2 * np.pi, 6)

    def field(p):
        return np.cos(p @ waves.T + phases).sum(1).astype(np.float32) / 6

    ours, whole = mise(field, threshold, 32, 16), dense_grid(field, 32)
    seen = seen_parts(whole.values, threshold, 2)
    corners = ndimage.binary_dilation(np.pad(seen, (0, 1)), np.ones((2, 2, 2)), origin=-1)
    assert np.array_equal(ours.values[corners], whole.values[corners])
    if np.array_equal(seen, crossed(whole.values, threshold)):
        a, b = marching_cubes(ours, threshold), marching_cubes(whole, threshold)
        assert np.array_equal(a.vertices, b.vertices)
        assert np.array_equal(a.faces, b.faces)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_of_any_field_nothing_is_split_in_vain_and_all_that_can_be_known_is_followed(seed):
    """Noise: much is missed, but no cube that is left has known values on both sides, and known values are exact."""
    drawn = np.random.default_rng(seed)
    table = drawn.normal(size=(17, 17, 17)).astype(np.float32) + 2.2  # rarely below 0

    def field(p):
        i, j, k = np.rint((p / 1.1 + 0.5) * 16).astype(int).T
        return table[i, j, k]

    grid = mise(field, 0.0, 16, 4)
    split = {(edge, *lower) for edge, cubes in grid.steps for lower in cubes.tolist()}
    known = np.zeros((17, 17, 17), bool)
    known[::4, ::4, ::4] = True
    for edge, x, y, z in split:
        known[x : x + edge + 1 : edge // 2, y : y + edge + 1 : edge // 2, z : z + edge + 1 : edge // 2] = True
        values = table[x : x + edge + 1, y : y + edge + 1, z : z + edge + 1]
        assert values.min() <= 0 <= values.max()
    assert known.sum() == grid.evaluated
    assert np.array_equal(grid.values[known], table[known])
    for edge in (4, 2):
        for x, y, z in np.ndindex(*(16 // edge,) * 3):
            corner = (x * edge, y * edge, z * edge)
            exists = edge == 4 or (4, *(v // 4 * 4 for v in corner)) in split
            if exists and (edge, *corner) not in split:
                block = tuple(slice(v, v + edge + 1) for v in corner)
                inside = grid.values[block][known[block]] > 0
                assert inside.all() or not inside.any()
                assert ((grid.values[block] > 0) == inside[0])[:edge, :edge, :edge].all()


def test_a_surface_seen_on_the_boundary_of_a_coarse_cube_alone_is_followed_into_it():
    """A bump through the middle of the face that a refined cube shares with one whose corners are all outside."""

    def field(p):
        q = (p / 1.1 + 0.5) * 16  # in cells of the finest grid; coarse cubes are 4 wide
        tube = 1.2 - np.hypot(q[:, 1] - 6, q[:, 2] - 6)  # along x, between the coarse corners
        return np.where(q[:, 0] <= 10.5, np.maximum(tube, 1.5 - np.linalg.norm(q - [0, 4, 4], axis=1)), -1)

    a, b = marching_cubes(mise(field, 0.0, 16, 4), 0.0), marching_cubes(dense_grid(field, 16), 0.0)
    assert len(b.faces) > 50
    assert np.array_equal(a.vertices, b.vertices)


@pytest.mark.parametrize("field", [sphere, torus, blobs])
@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_a_thinned_grid_has_the_mesh_of_that_resolution(field, resolution):
    a, b = (
        marching_cubes(subsample_grid(mise(field, 0.0, 64, 16), resolution), 0.0),
        marching_cubes(dense_grid(field, resolution), 0.0),
    )
    assert np.array_equal(a.vertices, b.vertices)
    assert np.array_equal(a.faces, b.faces)


def test_the_mesh_of_a_trained_network_is_that_of_the_dense_grid():
    """Up to the last bits: a network's values depend a little on what else is asked in the same batch."""
    torch.manual_seed(0)
    method = OccupancyNetworks(OccupancyNetwork("index", 1, {"index": partial(IndexEncoder, c_dim=4)}, hidden=16))
    optimizer, shape = torch.optim.Adam(method.network.parameters(), lr=0.01), torch.zeros(1, dtype=torch.long)
    for _ in range(60):
        p = torch.rand(1, 512, 3) * 1.1 - 0.55
        loss, _ = negative_elbo(
            method.network(p, shape), torch.from_numpy(torus(p[0].numpy()) > -0.05)[None].float(), None
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.eval()
    field = method.field(method.network.encode(shape).detach(), torch.zeros(1, 0))
    grids = [make(lambda p: method.evaluate(torch.as_tensor(p), field)) for make in (
        partial(mise, threshold=method.logit_threshold, resolution=64, coarse=16), partial(dense_grid, resolution=64)
    )]  # fmt: skip
    a, b = (marching_cubes(grid, method.logit_threshold) for grid in grids)
    assert len(b.faces) > 500
    assert np.array_equal(a.faces, b.faces)
    np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-5)


def test_corners_lie_where_the_paper_says():
    np.testing.assert_allclose(grid_positions(np.array([[0, 64, 128]]), 128), [[-0.55, 0, 0.55]])


@pytest.mark.parametrize(("resolution", "coarse"), [(96, 32), (16, 32), (0, 32), (32, 0), (100, 33)])
def test_a_resolution_that_no_doubling_reaches_is_refused(resolution, coarse):
    with pytest.raises(ValueError, match="times a power of two"):
        mise(sphere, 0.0, resolution, coarse)
