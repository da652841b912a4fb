"""Metrics against closed forms, brute force and point-cloud-utils."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from methods.occnet.evaluation import GroundTruth, Reconstruction, class_means, mean_scores, score
from methods.occnet.extraction import marching_cubes
from methods.occnet.mesh import EMPTY_MESH
from methods.occnet.metrics import UNIT, WORST, compare, iou, iou_by_threshold, nearest_brute_force, nearest_tree
from methods.occnet.mise import dense_grid


def on_sphere(count: int, radius: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    normals = np.random.default_rng(seed).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return (radius * normals).astype(np.float32), normals.astype(np.float32)


def test_concentric_spheres_are_as_far_apart_as_their_radii():
    found = compare(*on_sphere(40_000, 0.46, 1), *on_sphere(40_000, 0.40, 2))
    for key in ("accuracy", "completeness", "chamfer_l1"):
        assert found[key] == pytest.approx(UNIT * 0.06, rel=0.01)
    assert found["normals"] == pytest.approx(1, abs=1e-3)
    assert found["fscore"] == 0
    assert compare(*on_sphere(40_000, 0.405, 1), *on_sphere(40_000, 0.40, 2))["fscore"] > 0.99


def test_orientation_of_normals_does_not_count():
    points, normals = on_sphere(2000, 0.4)
    assert compare(points, -normals, points, normals)["normals"] == pytest.approx(1, abs=1e-5)


def test_all_metrics_by_brute_force():
    (p, n), (q, m) = on_sphere(60, 0.1, 1), on_sphere(80, 0.1, 2)
    distance = cdist(p, q)
    there, back = distance.min(1), distance.min(0)
    found = compare(p, n, q, m)
    assert found["accuracy"] == pytest.approx(10 * there.mean(), rel=1e-5)
    assert found["completeness"] == pytest.approx(10 * back.mean(), rel=1e-5)
    assert found["chamfer_l1"] == pytest.approx(5 * (there.mean() + back.mean()), rel=1e-5)
    precision, recall = (there < 0.01).mean(), (back < 0.01).mean()
    assert found["fscore"] == pytest.approx(2 * precision * recall / (precision + recall))
    cosines = [abs(n[i] @ m[distance[i].argmin()]) for i in range(60)]
    cosines_back = [abs(m[j] @ n[distance[:, j].argmin()]) for j in range(80)]
    assert found["normals"] == pytest.approx((np.mean(cosines) + np.mean(cosines_back)) / 2, rel=1e-5)
    assert "normals" not in compare(p, None, q, m)


def test_chamfer_is_half_of_point_cloud_utils_sum():
    pcu = pytest.importorskip("point_cloud_utils")
    p, q = (np.random.default_rng(i).uniform(-0.5, 0.5, (3000, 3)).astype(np.float32) for i in range(2))
    found = compare(p, None, q, q)
    assert found["chamfer_l1"] == pytest.approx(UNIT * pcu.chamfer_distance(p, q) / 2, rel=1e-5)


def test_tree_and_brute_force_find_the_same():
    p, q = (np.random.default_rng(i).uniform(-0.5, 0.5, (n, 3)).astype(np.float32) for i, n in ((0, 3000), (1, 2500)))
    tree, brute = nearest_tree(p, q), nearest_brute_force(torch.from_numpy(p), torch.from_numpy(q), chunk=700)
    np.testing.assert_allclose(tree.distance, brute.distance, atol=1e-6)
    assert np.array_equal(tree.index, brute.index)
    same = nearest_tree(p[:1].repeat(5, 0), q)  # all in one place
    assert np.array_equal(same.index, tree.index[:1].repeat(5))


bits = st.lists(st.booleans(), min_size=1, max_size=30)


@given(bits, st.integers(0, 99))
def test_iou_is_that_of_the_sets(a, seed):
    b = np.random.default_rng(seed).random(len(a)) < 0.5
    first, second = {i for i, x in enumerate(a) if x}, set(np.flatnonzero(b).tolist())
    expected = len(first & second) / len(first | second) if first | second else 1.0
    assert iou(np.array(a), b) == pytest.approx(expected)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]))
def test_all_thresholds_in_one_pass(seed, share):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 11, (40,), generator=generator) / 10  # often on a threshold
    inside = torch.rand(40, generator=generator) < share
    thresholds = torch.arange(1, 11) / 10
    expected = [iou(values >= t, inside) for t in thresholds]
    torch.testing.assert_close(iou_by_threshold(values, inside, thresholds), torch.tensor(expected))


def ball(radius: float = 0.4) -> GroundTruth:
    points = np.random.default_rng(5).uniform(-0.55, 0.55, (40_000, 3)).astype(np.float32)
    return GroundTruth(points, np.linalg.norm(points, axis=1) < radius, *on_sphere(20_000, radius, 3))


def test_a_smaller_ball_has_the_iou_of_the_volumes():
    mesh = marching_cubes(dense_grid(lambda p: 0.35 - np.linalg.norm(p, axis=1), 64), 0.0)
    found = score(Reconstruction(mesh), ball(), 20_000, seed=0)
    assert found["iou"] == pytest.approx((0.35 / 0.4) ** 3, abs=0.01)
    assert found["chamfer_l1"] == pytest.approx(UNIT * 0.05, rel=0.03)
    assert found["empty"] == 0
    assert found == score(Reconstruction(mesh), ball(), 20_000, seed=0)


def test_a_reconstruction_without_surface_gets_the_worst_of_everything():
    found = score(Reconstruction(EMPTY_MESH), ball(), 100, seed=0)
    assert found == WORST | {"empty": 1.0, "iou": 0.0}
    assert WORST["chamfer_l1"] == pytest.approx(10 * math.sqrt(3))
    everywhere = score(Reconstruction(EMPTY_MESH, meshes_at={16: EMPTY_MESH, 32: EMPTY_MESH}), ball(), 100, seed=0)
    assert everywhere == found | {"iou_at_16": 0.0, "iou_at_32": 0.0}
    no_points = score(Reconstruction(None, np.zeros((0, 3), np.float32), closed=False), ball(), 100, seed=0)
    assert no_points["empty"] == 1
    assert "iou" not in no_points
    assert "normals" not in no_points


def test_classes_count_alike_however_many_shapes_they_have():
    scores = {0: {"iou": 1.0}, 1: {"iou": 0.0}, 2: {"iou": 0.0, "normals": 0.5}}
    means = class_means(scores, ["cup", "fish", "fish"])
    assert means == {"cup": {"iou": 1.0}, "fish": {"iou": 0.0, "normals": 0.5}}
    assert mean_scores(means.values()) == {"iou": 0.5, "normals": 0.5}
