"""Sets built of meshes: what is in them beside exact formulas, going on after a stop, meshes that do not do."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import psutil
import pytest
import trimesh
import yaml

from datasets.download import CorruptData, MissingData
from datasets.shapes import shapenet_format as fmt
from datasets.shapes.build import Recipe, build_dataset, build_model
from datasets.shapes.geometry import voxel_centers
from datasets.shapes.meshes import MeshSource, folder_sources, npz_keys, prepare_mesh
from datasets.shapes.shapenet_format import Category
from tests.datasets.shapes.conftest import POINTS, three_one_one

BALL, RING = Category("ball", "ball"), Category("ring", "ring")


def test_the_layout_is_the_published_one(built):
    assert fmt.read_categories(built) == [BALL, RING]
    assert fmt.read_split(built, RING, "train") == ["r0", "r1", "r2"]
    assert fmt.read_split(built, RING, "test") == ["r4"]
    for model in ("ball/b0", "ring/r4"):
        assert {path.name for path in (built / model).iterdir()} == {
            *("points.npz", "points_surface.npz", "pointcloud.npz", "model.binvox", "img_choy2016")
        }
        assert len(fmt.image_paths(built / model)) == 3
    assert not list(built.rglob("*.part"))


@pytest.mark.parametrize("number", range(5))
def test_balls_beside_their_formula(built, meshes, number):
    """Squeezed balls: inside, surface and frame are known."""
    model, mesh = built / "ball" / f"b{number}", trimesh.load_mesh(meshes / "ball" / f"b{number}.off")
    axes = np.array([1, 1, 0.5 + 0.1 * number]) / 2  # longest edge of the box is 1

    def size(points: np.ndarray) -> np.ndarray:  # 1 on the surface of the ball, a little less on its mesh
        return np.linalg.norm(points.astype(float) / axes, axis=1)

    for name, share in (("points.npz", None), ("points_surface.npz", 0.5)):
        points, packed = fmt.read_points(model / name)
        inside = np.unpackbits(packed)[:POINTS].astype(bool)
        clear = (size(points) < 0.95) | (size(points) > 1.002)
        assert (inside == (size(points) < 1))[clear].all()
        if share is None:
            assert clear.mean() > 0.9
            assert np.abs(points).max() > 0.5
        else:
            assert (np.abs(size(points) - 1) < 0.15).mean() > 0.5
    surface, normals = fmt.read_point_cloud(model / "pointcloud.npz")
    assert (np.abs(size(surface) - 0.98) < 0.025).all()
    radial = surface.astype(float) / axes**2
    radial /= np.linalg.norm(radial, axis=1, keepdims=True)
    assert ((normals * radial).sum(1) > 0.95).all()
    voxels = np.unpackbits(fmt.read_voxels(model / "model.binvox")).astype(bool)
    sizes = size(voxel_centers(32))
    clear = (sizes < 0.95) | (sizes > 1)
    assert (voxels == (sizes < 1))[clear].all()
    with np.load(model / "points.npz") as kept:
        np.testing.assert_allclose(kept["loc"], mesh.bounds.mean(0), atol=1e-6)
        assert float(kept["scale"]) == pytest.approx(mesh.extents.max())


def test_cameras_show_where_points_are_in_the_pictures(built, meshes):
    """Points of the original mesh fall on the shape in every picture, and hit its outline."""
    mesh = trimesh.load_mesh(meshes / "ring" / "r1.obj")
    folder = built / "ring" / "r1" / "img_choy2016"
    world, camera = fmt.read_cameras(folder / "cameras.npz", 3)
    points, _ = trimesh.sample.sample_surface(mesh, 100_000, seed=0)
    for view in range(3):
        picture = fmt.read_image(folder / f"{view:03}.jpg")
        assert picture.shape == (3, 137, 137)
        assert (picture[:, [0, -1], :] > 250).all()  # white all around
        at = (camera[view] @ (world[view] @ np.column_stack([points, np.ones(len(points))]).T)).T
        assert (at[:, 2] > 0).all()
        column, row = (at[:, :2] / at[:, 2:]).T
        hit = np.zeros((137, 137), bool)
        hit[row.astype(int), column.astype(int)] = True
        shown = picture[0] < 240
        assert shown[hit].mean() > 0.95
        assert hit[shown].mean() > 0.97
    assert len({fmt.read_image(path).tobytes() for path in fmt.image_paths(built / "ring" / "r1")}) == 3


def test_the_same_command_gives_the_same_set_and_another_seed_another(built, meshes, tmp_path):
    sources = [source for source in folder_sources(meshes) if source.name in ("b0", "r3")]
    for seed, folder in ((0, "same"), (1, "other")):
        build_dataset(sources, tmp_path / folder, Recipe(POINTS, near=True, views=3, seed=seed), three_one_one)
    for name in ("ball/b0/points.npz", "ring/r3/pointcloud.npz", "ring/r3/img_choy2016/001.jpg"):
        assert (tmp_path / "same" / name).read_bytes() == (built / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (built / name).read_bytes()


def test_a_set_that_was_stopped_is_finished(copy, built, meshes):
    """Whole models stay as they are; what a killed process left behind is cleared away."""
    shutil.rmtree(copy / "ball" / "b2")
    (copy / "metadata.yaml").unlink()
    left = copy / "ball" / ".b2.part"
    left.mkdir()
    (left / "points.npz").write_bytes(b"half")
    before = (copy / "ring" / "r1" / "points.npz").stat().st_mtime_ns
    build_dataset(folder_sources(meshes), copy, Recipe(POINTS, near=True, views=3), three_one_one)
    assert (copy / "ring" / "r1" / "points.npz").stat().st_mtime_ns == before
    assert not left.exists()
    for name in ("ball/b2/points.npz", "metadata.yaml", "ball/train.lst"):
        assert (copy / name).read_bytes() == (built / name).read_bytes()


def test_a_set_that_was_begun_otherwise_is_left_alone(copy, meshes):
    with pytest.raises(CorruptData, match=r"was begun with points=401, not 50: remove it"):
        build_dataset(folder_sources(meshes), copy, Recipe(50, near=True, views=3), three_one_one)
    assert yaml.safe_load((copy / "build.yaml").read_text())["points"] == POINTS


def test_two_that_build_the_same_set_at_once(meshes, built, tmp_path):
    """One builds, the other waits and finds all done."""
    build_it = partial(
        build_dataset, folder_sources(meshes), tmp_path / "set", Recipe(POINTS, near=True, views=3), three_one_one
    )
    with ThreadPoolExecutor(2) as pool:
        for task in [pool.submit(build_it), pool.submit(build_it)]:
            task.result()
    files = {path.relative_to(built) for path in built.rglob("*")}
    assert files == {path.relative_to(tmp_path / "set") for path in (tmp_path / "set").rglob("*")}


@pytest.mark.slow
def test_a_killed_build_leaves_whole_models_alone_and_goes_on(meshes, built, tmp_path):
    """Several processes, killed in the middle."""
    command = [sys.executable, "-m", "scripts.build_shapes", str(meshes), str(tmp_path / "set"), "--points", "40000"]
    running = subprocess.Popen([*command, "--processes", "2"], stderr=subprocess.DEVNULL)
    while not list((tmp_path / "set").glob("*/[br]*/points.npz")) and running.poll() is None:
        time.sleep(0.02)
    children = [p for p in psutil.Process(running.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(children) == 2
    running.kill()
    running.wait()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(children[0].pid) or psutil.pid_exists(children[1].pid):  # they end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "set" / "metadata.yaml").exists()
    for model in (tmp_path / "set").glob("*/[br]*"):
        fmt.read_points(model / "points.npz")
        fmt.read_voxels(model / "model.binvox")
    subprocess.run([*command, "--processes", "1"], check=True, capture_output=True)
    assert len(list((tmp_path / "set").glob("*/[br]*/points.npz"))) == 10


def bad_meshes(root):
    ball = trimesh.creation.icosphere(1)
    vertices, faces = ball.vertices.copy(), ball.faces
    nan = vertices.copy()
    nan[3] = np.nan
    box = trimesh.creation.box()
    texts = {
        "open": (vertices, faces[1:], "3 edges belong to an odd number of faces; --watertight closes it"),
        "nan": (nan, faces, "1 of 42 vertices are not finite"),
        "empty": (np.empty((0, 3)), np.empty((0, 3), int), "empty"),
        "flat": (box.vertices * [1, 1, 0], box.faces, "its volume is 0; --watertight closes it"),
        "wrong": (vertices, np.where(faces == 3, 99, faces), ""),
        "point": (vertices * 0, faces, "all of its faces are points or lines"),
    }
    for name, (points, corners, _) in texts.items():
        lines = [f"OFF\n{len(points)} {len(corners)} 0"]
        lines += [" ".join(map(str, point)) for point in points]
        lines += ["3 " + " ".join(map(str, corner)) for corner in corners]
        (root / f"{name}.off").write_text("\n".join(lines) + "\n")
    (root / "text.obj").write_text("no mesh at all")
    (root / "cut.off.gz").write_bytes(gzip.compress(b"OFF\n1 0 0\n0 0 0\n" * 100)[:40])
    return {name: said for name, (*_, said) in texts.items()} | {"text": "", "cut": "cannot be read"}


def test_every_mesh_that_does_not_do_is_named_and_the_others_are_built(tmp_path):
    root = tmp_path / "meshes" / "things"
    root.mkdir(parents=True)
    faults = bad_meshes(root)
    trimesh.creation.box().export(root / "good.ply")
    with pytest.raises(CorruptData) as raised:
        build_dataset(folder_sources(tmp_path / "meshes"), tmp_path / "set", Recipe(50), three_one_one)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{len(faults)} of {len(faults) + 1} meshes cannot become shapes")
    assert len(lines) == len(faults) + 1
    for name, said in faults.items():
        (line,) = [line for line in lines[1:] if f"/{name}." in line]
        assert said in line
    assert [path.name for path in (tmp_path / "set" / "things").iterdir()] == ["good"]
    assert not (tmp_path / "set" / "metadata.yaml").exists()


def test_formats_and_folders_of_meshes(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    for kind in ("off", "obj", "ply", "stl"):
        content = box.export(file_type=kind)
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / f"a.{kind}.GZ").write_bytes(gzip.compress(content))
        (tmp_path / f"b_{kind}").mkdir()
        (tmp_path / f"b_{kind}" / f"x.y.{kind.upper()}").write_bytes(content)
    (tmp_path / "notes.txt").write_text("not a mesh")
    with pytest.raises(CorruptData, match=rf"would both become {tmp_path.name}/a"):
        folder_sources(tmp_path)
    for kind in ("obj", "ply", "stl"):
        (tmp_path / f"a.{kind}.GZ").rename(tmp_path / f"a_{kind}.{kind}.gz")
    sources = folder_sources(tmp_path)
    assert len(sources) == 8
    assert {(s.category, s.name) for s in sources} >= {(tmp_path.name, "a"), (tmp_path.name, "a_stl"), ("b_ply", "x.y")}
    for source in sources:
        vertices, faces, frame, _ = prepare_mesh(*source.load(), watertight=False)
        assert len(vertices) == 8
        assert len(faces) == 12
        assert frame["scale"] == 3
    (tmp_path / "b_none").mkdir()
    with pytest.raises(MissingData, match="there are no meshes"):
        folder_sources(tmp_path / "b_none")
    with pytest.raises(MissingData, match=r"notes\.txt is not a folder"):
        folder_sources(tmp_path / "notes.txt")


def test_meshes_turned_inside_out_are_turned_back():
    ball = trimesh.creation.icosphere(2)
    for faces in (ball.faces, ball.faces[:, ::-1]):
        vertices, turned, _, notes = prepare_mesh(ball.vertices, faces, watertight=False)
        assert notes == ([] if faces is ball.faces else ["turned the normals of 1 of 1 closed parts"])
        assert trimesh.Trimesh(vertices, turned).volume > 0


@pytest.mark.slow
def test_open_meshes_are_closed_on_demand(tmp_path):
    """A box without its lid, and a soup of two boxes that overlap."""
    pytest.importorskip("point_cloud_utils", reason="meshes are closed by point-cloud-utils (.[mesh])")
    box = trimesh.creation.box((1, 1, 1))
    lid = box.face_normals[:, 2] > 0.5
    soup = trimesh.util.concatenate([box, box.copy().apply_translation((0.6, 0.6, 0))])
    for name, mesh in {"lidless": trimesh.Trimesh(box.vertices, box.faces[~lid]), "soup": soup}.items():
        vertices, faces, frame, _ = prepare_mesh(mesh.vertices, mesh.faces, watertight=True)
        closed = trimesh.Trimesh(vertices, faces, process=False)
        assert closed.is_watertight, name
        assert closed.volume > 0
        assert np.abs(closed.bounds).max() < 0.52
        assert frame["scale"] == pytest.approx(mesh.extents.max())
    assert closed.volume == pytest.approx((2 - 0.16) / 1.6**3, rel=0.1)  # what is common counts once


def test_pairs_of_arrays(tmp_path):
    path = tmp_path / "meshes.npz"
    box = trimesh.creation.box()
    arrays = {"v7": box.vertices.astype(np.float32), "f7": box.faces.astype(np.uint16)}
    np.savez(path, **arrays, v30=box.vertices, f30=box.faces)
    assert npz_keys(path) == ["30", "7"]
    build_model(MeshSource("c", "7", path, "7"), tmp_path / "model", Recipe(64))
    points, packed = fmt.read_points(tmp_path / "model" / "points.npz")
    assert (np.unpackbits(packed)[:64] == (np.abs(points) < 0.5).all(1)).all()
    np.savez(path, **arrays, v8=box.vertices)
    with pytest.raises(CorruptData, match="must have pairs of vN and fN; it has 'v8'"):
        npz_keys(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CorruptData, match="is not a complete npz file"):
        npz_keys(path)
    with pytest.raises(CorruptData, match="mesh 7 cannot be read"):
        MeshSource("c", "7", path, "7").load()


def test_real_meshes(runner_data, tmp_path):
    """Watertight ones as they are; ModelNet's only where they are closed first."""
    folder = runner_data / "meshes"
    if not (folder / "common3d").is_dir():
        pytest.skip(f"no meshes in {folder}")
    sources = {source.name: source for source in folder_sources(folder / "common3d")}
    build_model(sources["spot"], tmp_path / "spot", Recipe(2000))
    _, packed = fmt.read_points(tmp_path / "spot" / "points.npz")
    assert 0.03 < np.unpackbits(packed)[:2000].mean() < 0.3
    with pytest.raises(CorruptData, match=r"suzanne\.obj\.gz: it is not watertight"):
        build_model(sources["suzanne"], tmp_path / "suzanne", Recipe(2000))
    chair = next(s for s in folder_sources(folder / "modelnet_raw") if s.name == "chair_0890")
    with pytest.raises(CorruptData, match=r"chair_0890\.off: it encloses nothing"):
        build_model(chair, tmp_path / "chair", Recipe(2000))
    assert not list(tmp_path.glob("*chair*"))
