"""Sets on disk as DataModules: what is read, and what is said of what is missing or damaged."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from datasets.download import CorruptData, MissingData
from datasets.shapes import shapenet_format as fmt
from datasets.shapes.binvox import read_binvox
from datasets.shapes.datamodules import PSB, ShapeNet, StoredShapes
from datasets.shapes.psb import CATEGORIES, psb_sources, psb_split
from datasets.shapes.shape_set import unpack_bits
from tests.datasets.shapes.conftest import POINTS


def stored(folder, **options) -> StoredShapes:
    data = StoredShapes(folder=str(folder), **{"points": 32, "batch_size": 4} | options)
    data.setup()
    return data


def test_what_is_on_disk_is_what_comes(built):
    data = stored(built)
    assert data.categories == ["ball", "ring"]
    assert data.names("train") == ["ball/b0", "ball/b1", "ball/b2", "ring/r0", "ring/r1", "ring/r2"]
    assert data.category_of("test") == ["ball", "ring"]
    assert data.dims == {"inputs": "pointcloud", "num_shapes": 6}
    for part in ("train", "val", "test"):
        for place, name in enumerate(data.names(part)):
            shapes = data.parts[part]
            with np.load(built / name / "points.npz") as kept:
                assert (shapes.points[place].numpy() == kept["points"]).all()
                expected = np.unpackbits(kept["occupancies"])[:POINTS]
                assert (unpack_bits(shapes.occupancies[place], POINTS).numpy() == expected).all()
            with np.load(built / name / "pointcloud.npz") as kept:
                assert (shapes.surface[place].numpy() == kept["points"]).all()
                assert (shapes.normals[place].numpy() == kept["normals"]).all()
    batch = list(data.test_dataloader())[1]
    assert (batch.voxels[0].numpy() == read_binvox(built / "ring" / "r4" / "model.binvox")).all()
    assert [len(batch.index) for batch in data.train_dataloader()] == [4, 2]


@pytest.mark.parametrize("inputs", ["voxels", "image", "none"])
def test_inputs(built, inputs):
    data = stored(built, inputs=inputs, image_size=None, views=2)
    batch = next(iter(data.test_dataloader()))
    if inputs == "image":
        first = fmt.read_image(built / "ball" / "b4" / "img_choy2016" / "000.jpg")
        np.testing.assert_allclose(batch.inputs[0].numpy() * 255, first, atol=1e-4)
        assert data.parts["train"].images.shape == (6, 2, 3, 137, 137)
    else:
        assert batch.inputs.shape == {"voxels": (1, 32, 32, 32), "none": (1, 0)}[inputs]
        assert data.parts["train"].images is None


@pytest.mark.parametrize("crop", [None, 0.6])
def test_cameras_show_where_the_surface_is_in_the_pictures(built, crop):
    data = stored(built, inputs="image", image_size=100, image_crop=crop, stored_points=None)
    seen = []
    for batch in [*data.train_dataloader(), *data.test_dataloader()]:
        lengths = torch.linalg.det(batch.cameras[..., :3])
        torch.testing.assert_close(lengths, torch.ones(len(lengths)))
        for picture, camera, lens, points in zip(
            batch.inputs, batch.cameras, batch.intrinsics, batch.surface, strict=True
        ):
            at = (lens @ (camera[:, :3] @ points.T + camera[:, 3:])).T
            assert (at[:, 2] > 1).all()  # as far away as `random_camera` puts it, whatever the mesh's unit
            column, row = (at[:, :2] / at[:, 2:] * 100).floor().long().T
            within = (column >= 0) & (column < 100) & (row >= 0) & (row < 100)
            assert within.all() or crop
            seen.append((picture[0, row[within], column[within]] < 0.95).float().mean())
    assert min(seen) > 0.93


def test_pictures_without_cameras(copy):
    for path in copy.rglob("cameras.npz"):
        path.unlink()
    batch = next(iter(stored(copy, inputs="image").train_dataloader()))
    assert batch.cameras is batch.intrinsics is None


def test_categories_by_name_and_limits(built):
    data = stored(built, categories=["ring"], limit_train=2)
    assert data.names("train") == ["ring/r0", "ring/r1"]
    with pytest.raises(ValueError, match=r"dataset\.categories: no chair; there are ball, ring"):
        stored(built, categories=["chair"])


def test_fewer_points_may_be_held_of_the_training_shapes(built):
    data = stored(built, stored_points=100)
    whole = stored(built)
    assert data.parts["train"].points.shape == data.parts["train"].normals.shape == (6, 100, 3)
    assert data.parts["test"].points.shape == (2, POINTS, 3)
    assert torch.equal(data.parts["train"].points, whole.parts["train"].points[:, :100])
    bits = [unpack_bits(shapes.occupancies, 100) for shapes in (data.parts["train"], whole.parts["train"])]
    assert torch.equal(*bits)


def test_threads_read_the_same(built):
    one, three = stored(built), stored(built, workers=3)
    assert torch.equal(one.parts["train"].surface, three.parts["train"].surface)


def test_points_near_the_surface(built):
    data = stored(built, sampling="surface")
    with np.load(built / "ring" / "r1" / "points_surface.npz") as kept:
        assert (data.parts["train"].points[4].numpy() == kept["points"]).all()
    assert torch.equal(data.parts["test"].points, stored(built).parts["test"].points)


def cut(path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def fewer_points(copy, model) -> None:
    points, packed = fmt.read_points(model / "points.npz")
    np.savez(model / "points.npz", points=points[:80], occupancies=packed[:10])


def camera_behind(copy, model) -> None:
    path = model / "img_choy2016" / "cameras.npz"
    world, lens = fmt.read_cameras(path, 3)
    world[1, 2] *= -1
    fmt.write_cameras(path, world, lens)


def resized_images(copy, model) -> None:
    for path in (model / "img_choy2016").glob("*.jpg"):
        with Image.open(path) as picture:
            picture.resize((224, 224)).save(path)


def frame_without_scale(copy, model) -> None:
    points, normals = fmt.read_point_cloud(model / "pointcloud.npz")
    fmt.write_point_cloud(model / "pointcloud.npz", points, normals, {"loc": np.zeros(3), "scale": np.array(0.0)})


def empty_part(copy, model) -> None:
    for category in ("ball", "ring"):
        (copy / category / "val.lst").write_text("")


DAMAGES = {
    "model": lambda copy, model: shutil.rmtree(model),
    "cloud": lambda copy, model: (model / "pointcloud.npz").unlink(),
    "near": lambda copy, model: (model / "points_surface.npz").unlink(),
    "cut": lambda copy, model: cut(model / "points.npz", 100),
    "voxels": lambda copy, model: cut(model / "model.binvox", 1),
    "blank": lambda copy, model: (copy / "ring" / "train.lst").write_text("r0\n\nr1\nr2"),
    "split": lambda copy, model: (copy / "ring" / "val.lst").unlink(),
    "twice": lambda copy, model: (copy / "ring" / "test.lst").write_text("r4\nr0"),
    "category": lambda copy, model: shutil.rmtree(copy / "ring"),
    "fewer": fewer_points,
    "picture": lambda copy, model: (model / "img_choy2016" / "001.jpg").write_bytes(b"no picture"),
    "views": lambda copy, model: (model / "img_choy2016" / "001.jpg").unlink(),
    "last": lambda copy, model: (model / "img_choy2016" / "002.jpg").unlink(),
    "camera": lambda copy, model: (model / "img_choy2016" / "cameras.npz").unlink(),
    "behind": camera_behind,
    "resized": resized_images,
    "frame": frame_without_scale,
    "pictures": lambda copy, model: shutil.rmtree(model / "img_choy2016"),
    "empty": empty_part,
}


def damage(copy, what: str) -> None:
    DAMAGES[what](copy, copy / "ring" / "r1")


@pytest.mark.parametrize(
    ("what", "error", "said", "options"),
    [
        ("model", MissingData, r"there is no folder .*ring/r1, which train\.lst names", {}),
        ("cloud", MissingData, r"there is no .*ring/r1/pointcloud\.npz", {}),
        ("near", MissingData, r"there is no .*ring/r1/points_surface\.npz", {"sampling": "surface"}),
        ("cut", CorruptData, r"ring/r1/points\.npz is not a complete npz file", {}),
        ("voxels", CorruptData, r"ring/r1/model\.binvox ends within a run", {}),
        ("blank", CorruptData, r"ring/train\.lst: line 2 is blank", {}),
        ("split", MissingData, r"ring/val\.lst, which lists the val part", {}),
        ("twice", CorruptData, r"ring: r0 is both in train\.lst and in test\.lst", {}),
        ("category", MissingData, "there is no folder .*ring for the category ring", {}),
        ("fewer", CorruptData, r"ring/r1 has points float16 \(80, 3\), .*ball/b0 has float16 \(401, 3\)", {}),
        ("picture", CorruptData, r"001\.jpg is no image that can be read", {"inputs": "image"}),
        ("views", CorruptData, r"ring/r1/.*002\.jpg is number 1 among the images", {"inputs": "image"}),
        ("last", CorruptData, r"ring/r1 has images uint8 \(2, 3, 137, 137\)", {"inputs": "image"}),
        ("camera", CorruptData, r"only one of .* has cameras, intrinsics", {"inputs": "image"}),
        ("behind", CorruptData, r"ring/r1/.*cameras\.npz: camera 1 does not see the shape", {"inputs": "image"}),
        (
            "resized",
            CorruptData,
            r"ring/r1/.*camera 0 looks at pixel \(68\.5, 68\.5\), .* 224 x 224",
            {"inputs": "image"},
        ),
        ("frame", CorruptData, r"ring/r1/pointcloud\.npz: loc must be three finite numbers", {"inputs": "image"}),
        ("pictures", MissingData, "there are no images .*ring/r1/img_choy2016", {"inputs": "image"}),
        ("empty", CorruptData, "the part val has no shapes of the categories ball, ring", {}),
    ],
)
def test_what_is_missing_or_damaged_is_named(copy, what, error, said, options):
    damage(copy, what)
    for workers in (0, 2):
        with pytest.raises(error, match=said):
            stored(copy, workers=workers, **options)


def test_damage_elsewhere_does_not_matter(copy):
    damage(copy, "category")
    assert stored(copy, categories=["ball"]).dims["num_shapes"] == 3


def test_no_set_at_all(tmp_path):
    with pytest.raises(MissingData, match=rf"(?s)ShapeNet is not in {tmp_path}/ShapeNet.*dataset_small_v1\.1\.zip"):
        ShapeNet(root=tmp_path).setup()
    with pytest.raises(MissingData, match=r"scripts\.build_shapes"):
        StoredShapes(folder="mine", root=tmp_path).setup()
    (tmp_path / "mine").mkdir()
    with pytest.raises(MissingData, match=r"has neither a metadata\.yaml nor a CATEGORY/train\.lst"):
        StoredShapes(folder="mine", root=tmp_path).setup()
    with pytest.raises(ValueError, match=r"dataset\.views must be positive"):
        StoredShapes(folder="mine", views=0)


def test_shapenet_is_read_by_the_names_of_its_categories(copy, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    copy.rename(root / "ShapeNet")
    (root / "ShapeNet" / "metadata.yaml").write_text(
        "ball: {id: ball, name: 'sofa,couch,lounge'}\nring: {id: ring, name: lamp}\n"
    )
    data = ShapeNet(root=root, categories=["sofa"])
    data.prepare_data()
    data.setup()
    assert data.category_of("val") == ["sofa"]
    assert data.names("val") == ["ball/b3"]


FEW = (21, 35, 37, 38, 381, 396, 397)  # cups and four-legged ones: train, val, test


def tiny_psb(path) -> None:
    """Boxes in the place of the benchmark's meshes."""
    arrays = {}
    for number in FEW:
        box = trimesh.creation.box((1, 1, number / 400))
        arrays |= {f"v{number}": box.vertices.astype(np.float32), f"f{number}": box.faces.astype(np.uint16)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def test_psb_is_built_once(tmp_path):
    tiny_psb(tmp_path / "meshes" / "psb380_simplified.npz")
    data = PSB(built_points=50, root=tmp_path, points=8)
    data.prepare_data()
    place = tmp_path / "shapes" / "psb-50"
    assert data.set_folder == place
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    again = PSB(built_points=50, root=tmp_path, points=8, sampling="surface")
    again.prepare_data()
    again.setup()
    assert before == {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert again.categories == ["cup", "fourleg"]
    assert again.names("train") == ["cup/21", "fourleg/381"]
    assert again.names("val") == ["cup/35", "fourleg/396"]
    assert again.names("test") == ["cup/37", "cup/38", "fourleg/397"]
    with np.load(place / "cup" / "38" / "points.npz") as kept:
        half = np.array([0.5, 0.5, 38 / 800])
        inside = (np.abs(kept["points"]) < half).all(1)
        assert (np.unpackbits(kept["occupancies"])[:50] == inside).mean() > 0.9
        np.testing.assert_allclose(kept["scale"], 1)


def test_psb_with_pictures_is_a_set_of_its_own(tmp_path):
    tiny_psb(tmp_path / "meshes" / "psb380_simplified.npz")
    data = PSB(built_points=50, built_views=2, inputs="image", image_size=64, root=tmp_path, points=8)
    data.prepare_data()
    data.setup()
    assert data.set_folder == tmp_path / "shapes" / "psb-50-2views"
    assert next(iter(data.train_dataloader())).inputs.shape == (2, 3, 64, 64)


def test_a_data_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    tiny_psb(tmp_path / "data" / "meshes" / "psb380_simplified.npz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").chmod(0o555)
    data = PSB(built_points=50, root=tmp_path / "data")
    data.prepare_data()
    assert data.set_folder == tmp_path / "cache" / "paper-runner" / "shapes" / "psb-50"
    assert not (tmp_path / "data" / "shapes").exists()
    cached = data.set_folder
    (tmp_path / "data").chmod(0o755)
    shutil.copytree(cached, tmp_path / "data" / "shapes" / "psb-50")
    (tmp_path / "data").chmod(0o555)
    assert data.set_folder == tmp_path / "data" / "shapes" / "psb-50"
    (tmp_path / "data").chmod(0o755)


def test_psb_without_its_meshes_or_with_others(tmp_path):
    with pytest.raises(MissingData, match=re.escape(str(tmp_path / "meshes" / "psb380_simplified.npz"))):
        PSB(root=tmp_path).prepare_data()
    with pytest.raises(MissingData, match="is not built yet"):
        PSB(root=tmp_path).setup()
    with pytest.raises(ValueError, match=r"dataset\.built_points must be positive"):
        PSB(built_points=0)
    np.savez(tmp_path / "psb380_simplified.npz", v261=np.zeros((3, 3)), f261=np.zeros((1, 3)))
    with pytest.raises(CorruptData, match=r"npz has the mesh 261; the benchmark has no mesh of this number"):
        PSB(root=tmp_path).prepare_data()


def test_the_benchmark_must_be_whole(tmp_path):
    tiny_psb(tmp_path / "psb380_simplified.npz")
    with pytest.raises(CorruptData, match=r"psb380_simplified\.npz has 7 meshes, expected 364"):
        PSB(expect=364, root=tmp_path).prepare_data()
    assert not (tmp_path / "shapes").exists()


def test_the_files_of_the_benchmark_itself(tmp_path):
    folder = tmp_path / "MeshsegBenchmark-1.0" / "data" / "off"
    folder.mkdir(parents=True)
    box = trimesh.creation.box()
    for name in ("9.off", "10.off", "21.off"):
        box.export(folder / name)
    (folder / "readme.txt").write_text("no mesh")
    data = PSB(simplified=False, built_points=50, expect=3, root=tmp_path, limit_test=1)
    data.prepare_data()
    assert data.set_folder == tmp_path / "shapes" / "psb-original-50"
    assert (data.set_folder / "human" / "train.lst").read_text() == "9\n10"
    (folder / "more").mkdir()
    (folder / "more" / "9.off.gz").write_bytes(b"")
    with pytest.raises(CorruptData, match=r"more/9\.off\.gz and .*/9\.off have the same number"):
        psb_sources(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptData, match="has no meshes of the benchmark"):
        psb_sources(tmp_path / "empty")


def test_the_real_benchmark(runner_data):
    path = runner_data / "meshes" / "psb380_simplified.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    sources = psb_sources(path)
    assert len(sources) == 364
    assert len({source.category for source in sources}) == 19 == len([name for name in CATEGORIES if name])
    parts = [psb_split([s for s in sources if s.category == name]) for name in CATEGORIES if name]
    assert {part: sum(len(split[part]) for split in parts) for part in ("train", "val", "test")} == {
        "train": 257,  # 266, 38 and 76 less the 16 that are not in the file
        "val": 35,
        "test": 72,
    }
