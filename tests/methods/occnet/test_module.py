"""The methods from the command line on embedded solids: metrics, files, repetition, mistakes; losses by formula."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch.distributions import Normal

from methods.occnet.evaluation import GroundTruth, Reconstruction, Scorer
from methods.occnet.extraction import marching_cubes
from methods.occnet.mise import dense_grid
from methods.occnet.module import negative_elbo
from runner.execution.record import read_metrics

DATA = [
    *("dataset=solids", "dataset.categories=[box,ellipsoid]", "dataset.shapes={train:4,val:1,test:2}"),
    *("dataset.points=128", "dataset.surface_points=128", "dataset.batch_size=4", "dataset.stored_points=2000"),
    *("logger=csv", "threads=1", "method.surface_samples=2000", "method.num_shown=1"),
]
TRAIN = ["dataset.iterations=2", "schedule.max_epochs=2"]
GRID = ["method.resolution=16", "method.resolution_0=8"]
ONET = ["model=onet_small", "model.hidden=16", "model.blocks=1", *TRAIN, *GRID]
PIX2MESH = ["model=pix2mesh_small", "dataset.image_size=64", "model.subdivisions=0", "dataset.views=1"]
GENERATIVE = ["model.hidden=16", "model.z_dim=4", "method.num_generated=2"]
SMALL = [f"model.encoders.pointcloud.{key}=8" for key in ("hidden", "c_dim")]


def folder_of(outputs: Path) -> Path:
    (folder,) = (path.parent for path in outputs.glob("occnet/*/*/result.json"))
    return folder


def metrics_of(outputs: Path) -> dict[str, float]:
    return json.loads((folder_of(outputs) / "result.json").read_text())["metrics"]


@pytest.mark.slow
def test_the_paper_method_trains_and_scores_its_meshes(call, tmp_path):
    run = ["method=occnet", *DATA, *ONET, *SMALL, "method.export=ply", "method.tune_threshold=true", "seed=3"]
    run += ["method.resolutions=[8,16]"]
    code, printed = call(*run, f"paths.outputs={tmp_path}/a")
    assert code == 0, printed
    folder, metrics = folder_of(tmp_path / "a"), metrics_of(tmp_path / "a")
    meshes = sorted(folder.glob("meshes/*/*.ply"))
    assert [path.parent.name for path in meshes] == ["box"] * 2 + ["ellipsoid"] * 2
    assert all(trimesh.load(path, process=False).is_watertight for path in meshes)
    with open(folder / "shapes.csv") as file:
        rows = list(csv.DictReader(file))
    for key in ("iou", "chamfer_l1", "normals", "fscore"):
        by_category = {c: [float(r[key]) for r in rows if r["category"] == c] for c in ("box", "ellipsoid")}
        for category, values in by_category.items():
            assert metrics[f"test/{key}_{category}"] == pytest.approx(np.mean(values))
        assert metrics[f"test/{key}"] == pytest.approx(np.mean([np.mean(v) for v in by_category.values()]))
    assert metrics["test/chamfer_l1"] == pytest.approx((metrics["test/accuracy"] + metrics["test/completeness"]) / 2)
    assert metrics["test/iou"] == pytest.approx(metrics["test/net_iou"], abs=0.05)
    assert metrics["test/iou_at_16"] == metrics["test/iou"]
    figures = {"reconstructions", "refinement", "slices", "resolution", "curve_iou"}
    assert {p.stem for p in folder.glob("figures/*.png")} >= figures
    thresholds = [row["val/threshold"] for row in read_metrics(folder)]
    assert all(any(t == pytest.approx(k / 20) for k in range(1, 20)) for t in thresholds)

    assert call(*run, f"paths.outputs={tmp_path}/b")[0] == 0
    again = metrics_of(tmp_path / "b")
    assert {k: v for k, v in again.items() if "seconds" not in k} == {
        k: v for k, v in metrics.items() if "seconds" not in k
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more", "has"),
    [
        ("r2n2", ["model=r2n2_small", "model.channels=[8,4,4,4]", *SMALL, *TRAIN], {"iou", "normals", "net_iou"}),
        ("psgn", ["model=psgn_small", "model.points=64", *SMALL, *TRAIN], {"chamfer_l1", "fscore"}),
        (
            "atlasnet",
            ["model=atlasnet_small", "model.patches=2", "method.points=64", "method.grid_size=4", *SMALL, *TRAIN],
            {"chamfer_l1", "normals"},
        ),
        ("pix2mesh", [*PIX2MESH, *TRAIN], {"iou", "normals"}),
        ("convex_hull", [], {"iou", "normals"}),
        ("unconditional", [*GENERATIVE, *TRAIN, *GRID], {"iou", "net_iou"}),
        ("no_cbn", [*ONET, *SMALL], {"iou"}),
        ("sampling_equal", [*ONET, *SMALL], {"iou"}),
    ],
)
def test_every_method_runs(call, tmp_path, method, more, has):
    code, printed = call(f"method=occnet/{method}", *DATA, *more, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    metrics = metrics_of(tmp_path)
    assert has <= {key.removeprefix("test/") for key in metrics}
    assert ("test/iou" in metrics) == ("iou" in has)
    assert ("test/normals" in metrics) == (method != "psgn")
    assert (folder_of(tmp_path) / "figures" / "reconstructions.png").exists()
    assert (folder_of(tmp_path) / "figures" / "generated.png").exists() == (method == "unconditional")


@pytest.mark.slow
def test_meshes_are_simplified_refined_and_kept_with_normals(call, tmp_path):
    pytest.importorskip("fast_simplification")
    more = ["method.simplify=200", "method.refine_steps=3", "method.vertex_normals=true", "method.export=glb"]
    code, printed = call("method=occnet", *DATA, *ONET, *SMALL, *more, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    meshes = [trimesh.load(path, force="mesh") for path in folder_of(tmp_path).glob("meshes/*/*.glb")]
    assert len(meshes) == 4
    for mesh in meshes:
        assert 100 <= len(mesh.faces) <= 210
        lengths = np.linalg.norm(mesh.vertex_normals, axis=1)
        assert np.isclose(lengths, 1, atol=1e-3).mean() > 0.9  # a field that is flat somewhere has none there


def test_the_voxels_of_the_true_shape_score_as_their_iou_says(call, tmp_path):
    """Voxels of the data and those told by samples of the surface are nearly the same, and finer ones are better."""
    run = ["method=occnet/voxelization", *DATA, "dataset.stored_points=20000", "method.resolutions=[16,32,33]"]
    code, printed = call(*run, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    found = metrics_of(tmp_path)
    assert found["test/iou_at_32"] == found["test/iou"]
    assert 0.7 < found["test/iou_at_16"] < found["test/iou"] - 0.03
    assert found["test/iou_at_33"] == pytest.approx(found["test/iou"], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["method=occnet", "method.threshold=1.5"], "method.threshold is a probability"),
        (["method=occnet", "method.resolution=100"], "must be method.resolution_0=32 times a power of two"),
        (["method=occnet", "method.resolutions=[24]"], "method.resolutions must divide method.resolution=128"),
        (["method=occnet", "method.lr_decay=2"], "method.lr_decay is a share"),
        (["method=occnet", "method.export=stl"], "method.export must be null or one of"),
        (["method=occnet", "model.decoder=mlp"], "model.decoder=mlp is unknown; choose from cbatchnorm"),
        (["method=occnet", "model=r2n2"], "this method trains a OccupancyNetwork"),
        (["method=occnet", "dataset.inputs=none"], "model.decoder=simple"),
        (["method=occnet/r2n2", "model=onet"], "model=r2n2"),
        (["method=occnet/convex_hull", "dataset.inputs=voxels"], "this method needs dataset.inputs=pointcloud"),
        (["method=occnet/pix2mesh", "dataset.inputs=voxels"], "dataset.inputs=image"),
        (["method=occnet", "method.surface_samples=0"], "method.surface_samples must be positive"),
    ],
)
def test_a_mistake_ends_in_one_message(call, tmp_path, arguments, said):
    encoder = [] if arguments[0] in ("method=occnet/convex_hull", "method=occnet/pix2mesh") else SMALL
    code, printed = call(*arguments, *DATA[:3], "logger=csv", *encoder, f"paths.outputs={tmp_path}")
    assert code == 2
    assert said in printed
    assert "Traceback" not in printed


def test_the_loss_is_the_summed_cross_entropy_plus_the_divergence():
    logits, occupied = torch.randn(3, 7), (torch.rand(3, 7) > 0.5).float()
    p = torch.sigmoid(logits)
    entropy = -(occupied * p.log() + (1 - occupied) * (1 - p).log()).sum() / 3
    torch.testing.assert_close(negative_elbo(logits, occupied, None)[0], entropy)
    mean, std = torch.randn(3, 2), torch.rand(3, 2) + 0.1
    divergence = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum() / 3
    loss, kl = negative_elbo(logits, occupied, Normal(mean, std))
    torch.testing.assert_close(kl, divergence)
    torch.testing.assert_close(loss, entropy + divergence)


def test_scores_do_not_depend_on_the_number_of_threads():
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, 3))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    true = GroundTruth(points, np.linalg.norm(points, axis=1) < 0.4, 0.4 * normals, normals)
    grids = [dense_grid(lambda p, r=r: r - np.linalg.norm(p, axis=1), 16) for r in (0.3, 0.35, 0.4, 0.45, 0.0)]
    meshes = [marching_cubes(grid, 0.0) for grid in grids]

    def scores():
        scorer = Scorer(500)
        for index, mesh in enumerate(meshes):
            scorer.add(index, Reconstruction(mesh, metrics={"faces": float(len(mesh.faces))}), true)
        scorer.add(0, Reconstruction(meshes[1]), true)  # a shape that another process has too
        return scorer.finish()

    one = scores()
    torch.set_num_threads(2)
    try:
        two = scores()
    finally:
        torch.set_num_threads(1)
    assert list(one) == list(two) == [0, 1, 2, 3, 4]
    assert one == two
    assert one[4]["empty"] == 1
