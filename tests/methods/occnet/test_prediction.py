"""Meshes from point clouds and pictures of one's own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import ConvexHull

from datasets.download import CorruptData
from datasets.shapes.inputs import Frame, cloud_input, picture_input, read_cloud
from methods.occnet.alpha_shape import convex_hull
from methods.occnet.evaluation import Reconstruction
from methods.occnet.mesh import Mesh
from methods.occnet.prediction import reconstruct_files

CLOUDS = SimpleNamespace(inputs="pointcloud", input_points=200, image_size=None)


def hull(batch) -> Reconstruction:
    return Reconstruction(convex_hull(batch.inputs[0].numpy().astype(np.float64)))


def test_a_reconstruction_has_place_and_scale_of_its_file(tmp_path) -> None:
    points = np.random.default_rng(0).normal(size=(200, 3)) * [1, 2, 3] + [10, 20, 30]
    np.savetxt(tmp_path / "a.xyz", points)
    np.save(tmp_path / "b.npy", points)
    np.savez(tmp_path / "c.npz", points=points)
    trimesh.PointCloud(points).export(tmp_path / "d.ply")
    out = tmp_path / "out"
    out.mkdir()
    files = reconstruct_files(hull, [tmp_path], out, CLOUDS, "ply")
    assert [path.name for path in files] == ["a.ply", "b.ply", "c.ply", "d.ply"]
    for path in files:
        mesh = trimesh.load(path)
        assert mesh.volume == pytest.approx(ConvexHull(points).volume, rel=1e-3)
        np.testing.assert_allclose(mesh.bounds, [points.min(0), points.max(0)], atol=1e-3)


def test_a_cloud_in_the_unit_cube_and_back() -> None:
    points = np.random.default_rng(0).uniform(size=(50, 3)) * [2, 8, 4] - 3
    frame = Frame(points)
    unit = frame.to_unit(points)
    assert (unit.max(0) - unit.min(0)).max() == pytest.approx(1)
    np.testing.assert_allclose(unit.max(0) + unit.min(0), 0, atol=1e-12)
    np.testing.assert_allclose(frame.from_unit(unit), points)
    assert cloud_input(unit, 300).shape == (1, 300, 3)
    chosen = cloud_input(unit, 20)[0].numpy()
    assert len(np.unique(chosen, axis=0)) == 20
    with pytest.raises(ValueError, match="the same"):
        Frame(np.ones((5, 3)))


def test_points_of_a_mesh_lie_on_it(tmp_path) -> None:
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "box.off")
    points = read_cloud(tmp_path / "box.off", 100)
    assert points.shape == (100, 3)
    np.testing.assert_allclose(np.abs(points).max(1), 0.5, atol=1e-9)


def test_pictures(tmp_path) -> None:
    Image.new("L", (40, 20), 128).save(tmp_path / "a.png")
    seen = []

    def square(batch) -> Reconstruction:
        seen.append(batch.inputs)
        return Reconstruction(Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]])))

    data = SimpleNamespace(inputs="image", image_size=32)
    (path,) = reconstruct_files(square, [tmp_path / "a.png"], tmp_path, data, "obj")
    assert seen[0].shape == (1, 3, 32, 32)
    torch.testing.assert_close(seen[0], torch.full((1, 3, 32, 32), 128 / 255))
    assert trimesh.load(path).faces.shape == (1, 3)
    assert picture_input(torch.zeros(3, 10, 20, dtype=torch.uint8), None).shape == (1, 3, 20, 20)


def test_what_cannot_be_read_is_named(tmp_path) -> None:
    (tmp_path / "a.xyz").write_text("1 2\n3 4\n")
    with pytest.raises(CorruptData, match=r"a\.xyz must hold three or more finite points"):
        read_cloud(tmp_path / "a.xyz", 10)
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    with pytest.raises(CorruptData, match="no array `points`"):
        read_cloud(tmp_path / "b.npz", 10)
    with pytest.raises(ValueError, match=r"dataset\.inputs is voxels"):
        reconstruct_files(hull, [tmp_path], tmp_path, SimpleNamespace(inputs="voxels"), "ply")
    with pytest.raises(ValueError, match="none of the point clouds"):
        reconstruct_files(hull, [tmp_path / "c.doc"], tmp_path, CLOUDS, "ply")
