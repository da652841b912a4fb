"""The published layout: round trips, and what is said of files that are damaged, missing or not what they should be."""

from __future__ import annotations

import re
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from datasets.download import CorruptData, MissingData
from datasets.shapes import shapenet_format as fmt
from datasets.shapes.binvox import write_binvox
from datasets.shapes.shapenet_format import Category

FRAME = {"loc": np.zeros(3), "scale": np.float64(1)}
AIR = Category("02691156", "airplane")


def refused(error, said, path):
    """Expects `error` that says what `said` matches, and names the file."""
    return pytest.raises(error, match=f"(?s)(?=.*{re.escape(str(path))}).*{said}")


@given(st.integers(1, 50).flatmap(lambda n: arrays.arrays(bool, n)))
def test_points_come_back(tmp_path_factory, inside):
    path = tmp_path_factory.mktemp("points") / "points.npz"
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (len(inside), 3))
    fmt.write_points(path, points, inside, FRAME)
    found, packed = fmt.read_points(path)
    assert found.dtype == np.float16
    assert np.abs(found - points).max() < 2**-11
    assert (np.unpackbits(packed)[: len(inside)] == inside).all()
    with np.load(path) as kept:  # as the authors' code reads it
        assert (np.unpackbits(kept["occupancies"])[: kept["points"].shape[0]] == inside).all()


def test_occupancies_that_are_not_packed_are_read_too(tmp_path):
    inside = np.random.default_rng(1).uniform(size=37) < 0.5
    np.savez(tmp_path / "points.npz", points=np.zeros((37, 3), np.float32), occupancies=inside)
    points, packed = fmt.read_points(tmp_path / "points.npz")
    assert points.dtype == np.float32
    assert (np.unpackbits(packed)[:37] == inside).all()


POINTS = np.random.default_rng(2).uniform(-0.5, 0.5, (20, 3)).astype(np.float16)


def with_value(value: float) -> np.ndarray:
    points = POINTS.copy()
    points[[3, 7], 1] = value
    return points


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"points": POINTS}, "has no occupancies; it has points"),
        ({"occupancies": np.zeros(3, np.uint8)}, "has no points; it has occupancies"),
        ({}, "has no points, occupancies; it has nothing"),
        ({"points": POINTS, "occupancies": np.zeros(4, np.uint8)}, r"occupancies are uint8 \(4,\), expected 3 bytes"),
        ({"points": POINTS, "occupancies": np.zeros(3, np.float32)}, "occupancies are float32"),
        ({"points": POINTS, "occupancies": np.full(20, 2)}, "occupancies must be 0 or 1"),
        ({"points": POINTS.T, "occupancies": np.zeros(3, np.uint8)}, r"points are float16 \(3, 20\)"),
        ({"points": POINTS.astype(int), "occupancies": np.zeros(3, np.uint8)}, r"points are int64"),
        ({"points": POINTS[:0], "occupancies": np.zeros(0, np.uint8)}, r"points are float16 \(0, 3\)"),
        ({"points": with_value(np.nan), "occupancies": np.zeros(3, np.uint8)}, "2 of 20 points are not finite"),
        ({"points": with_value(np.inf), "occupancies": np.zeros(3, np.uint8)}, "2 of 20 points are not finite"),
        ({"points": with_value(-0.6), "occupancies": np.zeros(3, np.uint8)}, "2 of 20 points lie outside"),
        ({"points": np.array([{}]), "occupancies": np.zeros(3, np.uint8)}, "is not a complete npz file"),
    ],
)
def test_points_that_are_not_what_they_should_be(tmp_path, kept, said):
    path = tmp_path / "points.npz"
    np.savez(path, **kept)
    with refused(CorruptData, said, path):
        fmt.read_points(path)


def test_points_near_the_surface_may_lie_a_little_outside(tmp_path):
    for name, fits in (("points.npz", False), ("points_surface.npz", True)):
        np.savez(tmp_path / name, points=with_value(0.6), occupancies=np.zeros(3, np.uint8))
        if fits:
            fmt.read_points(tmp_path / name)
        else:
            with refused(CorruptData, r"outside \[-0.551, 0.551\]", tmp_path / name):
                fmt.read_points(tmp_path / name)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_that_are_cut_off(tmp_path, share, compressed):
    path = tmp_path / "points.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, points=np.tile(POINTS, (50, 1)), occupancies=np.zeros(125, np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with refused(CorruptData, "is not a complete npz file", path):
        fmt.read_points(path)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.6])
def test_files_of_which_bytes_have_changed(tmp_path, place):
    path = tmp_path / "points.npz"
    np.savez(path, points=np.tile(POINTS, (50, 1)), occupancies=np.zeros(125, np.uint8))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x55
    path.write_bytes(content)
    with refused(CorruptData, "is not a complete npz file", path):
        fmt.read_points(path)


def test_other_files_and_none(tmp_path):
    path = tmp_path / "points.npz"
    with refused(MissingData, "there is no", path):
        fmt.read_points(path)
    np.save(tmp_path / "array.npy", POINTS)
    (tmp_path / "array.npy").rename(path)
    with refused(CorruptData, "is not a complete npz file", path):
        fmt.read_points(path)


def test_clouds(tmp_path):
    path = tmp_path / "pointcloud.npz"
    fmt.write_point_cloud(path, POINTS, -POINTS, FRAME)
    points, normals = fmt.read_point_cloud(path)
    assert (points == POINTS).all()
    assert (normals == -POINTS).all()
    for kept, said in (
        ({"points": POINTS}, "has no normals"),
        ({"points": POINTS, "normals": POINTS[1:]}, "20 points have 19 normals"),
        ({"points": POINTS, "normals": with_value(np.nan)}, "2 of 20 normals are not finite"),
        ({"points": with_value(0.7), "normals": POINTS}, "2 of 20 points lie outside"),
    ):
        np.savez(path, **kept)
        with refused(CorruptData, said, path):
            fmt.read_point_cloud(path)


def test_voxels_of_another_size(tmp_path):
    path = tmp_path / "model.binvox"
    with refused(MissingData, "there is no", path):
        fmt.read_voxels(path)
    write_binvox(path, np.ones((16, 16, 16), bool))
    with refused(CorruptData, "has 16 x 16 x 16 voxels, expected 32 per axis", path):
        fmt.read_voxels(path)


@pytest.mark.parametrize("content", ["a1\nb2\nc3", "a1\nb2\nc3\n", "a1\r\nb2\r\nc3\r\n"])
def test_split_files_may_end_in_a_line_end(tmp_path, content):
    (tmp_path / AIR.folder).mkdir()
    (tmp_path / AIR.folder / "train.lst").write_bytes(content.encode())
    assert fmt.read_split(tmp_path, AIR, "train") == ["a1", "b2", "c3"]
    (tmp_path / AIR.folder / "val.lst").write_text("")
    assert fmt.read_split(tmp_path, AIR, "val") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\n\nb", "line 2 is blank"),
        ("a\nb\n\n", "line 3 is blank"),
        ("\na", "line 1 is blank"),
        ("a\n \nb", "line 2 is blank"),
        ("a\nb \n", "line 2 is not the name of a model: 'b '"),
        ("\n", "line 1 is blank"),
        ("a\n../b\n", "line 2 is not the name of a model: '../b'"),
        ("a\n..\n", "line 2 is not the name of a model"),
        ("a\nb\na\n", "line 3 names a again, after line 1"),
    ],
)
def test_split_files_that_are_not_what_they_should_be(tmp_path, content, said):
    (tmp_path / AIR.folder).mkdir()
    path = tmp_path / AIR.folder / "test.lst"
    path.write_bytes(content.encode())
    with refused(CorruptData, said, path):
        fmt.read_split(tmp_path, AIR, "test")


def test_split_files_that_are_missing_or_no_text(tmp_path):
    with refused(MissingData, "there is no folder .* for the category airplane", tmp_path / AIR.folder):
        fmt.read_split(tmp_path, AIR, "test")
    (tmp_path / AIR.folder).mkdir()
    path = tmp_path / AIR.folder / "test.lst"
    with refused(MissingData, "lists the test part of the category airplane", path):
        fmt.read_split(tmp_path, AIR, "test")
    path.write_bytes(b"\xff\xfe\x00")
    with refused(CorruptData, "is not a text file", path):
        fmt.read_split(tmp_path, AIR, "test")


def test_no_model_is_in_two_parts(tmp_path):
    (tmp_path / AIR.folder).mkdir()
    fmt.write_split(tmp_path, AIR, "train", ["a", "b"])
    fmt.write_split(tmp_path, AIR, "test", ["c", "b"])
    with refused(CorruptData, r"b is both in train\.lst and in test\.lst", tmp_path / AIR.folder):
        fmt.check_disjoint(tmp_path, AIR)
    fmt.write_split(tmp_path, AIR, "test", ["c"])
    fmt.check_disjoint(tmp_path, AIR)


def test_categories(tmp_path):
    (tmp_path / "metadata.yaml").write_text(
        "'02691156': {id: '02691156', name: 'airplane,aeroplane,plane'}\n'02828884': {id: '02828884', name: bench}\n"
    )
    expected = [AIR, Category("02828884", "bench")]
    assert fmt.read_categories(tmp_path) == expected
    fmt.write_categories(tmp_path, expected)
    assert fmt.read_categories(tmp_path) == expected
    (tmp_path / "metadata.yaml").unlink()
    (tmp_path / "vase").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "vase" / "train.lst").write_text("a")
    assert fmt.read_categories(tmp_path) == [Category("vase", "vase")]


@pytest.mark.parametrize(
    "content", ["[1, 2", "just text", "", "a: {id: b}", "a: [1]", "a: {name: 3}", "a: {name: x}\nb: {name: 'x,y'}"]
)
def test_categories_that_are_not_what_they_should_be(tmp_path, content):
    path = tmp_path / "metadata.yaml"
    path.write_text(content)
    with refused(CorruptData, "", path):
        fmt.read_categories(tmp_path)


def test_pictures(tmp_path):
    with refused(MissingData, "there are no images", tmp_path / "img_choy2016"):
        fmt.image_paths(tmp_path)
    folder = tmp_path / "img_choy2016"
    folder.mkdir()
    pixels = np.random.default_rng(3).integers(0, 256, (12, 10, 3)).astype(np.uint8)
    for name in ("001.png", "000.png"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(pixels[..., 0]).save(folder / "002.png")
    paths = fmt.image_paths(tmp_path)
    assert [path.name for path in paths] == ["000.png", "001.png", "002.png"]
    assert (fmt.read_image(paths[0]).transpose(1, 2, 0) == pixels).all()
    assert (fmt.read_image(paths[2]) == pixels[None, ..., 0]).all()
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    with refused(CorruptData, "is no image that can be read", paths[0]):
        fmt.read_image(paths[0])


def test_grey_images_of_16_bits_are_scaled(tmp_path) -> None:
    values = np.array([[0, 257, 32896], [65535, 25700, 128]], np.uint16)
    Image.fromarray(values).save(tmp_path / "depth.png")
    assert fmt.read_image(tmp_path / "depth.png").tolist() == [[[0, 1, 128], [255, 100, 0]]] * 3


@pytest.mark.parametrize(
    "frame", [{"loc": np.zeros(2), "scale": np.array(1.0)}, {"loc": np.zeros(3), "scale": np.array(np.nan)}]
)
def test_frames(tmp_path, frame):
    path, points = tmp_path / "pointcloud.npz", np.zeros((3, 3))
    fmt.write_point_cloud(path, points, points, {"loc": np.array([1.0, 2, 3]), "scale": np.array(0.5)})
    loc, scale = fmt.read_frame(path)
    assert (loc.tolist(), scale) == ([1, 2, 3], 0.5)
    fmt.write_point_cloud(path, points, points, frame)
    with refused(CorruptData, "loc must be three finite numbers and scale a positive one", path):
        fmt.read_frame(path)


def test_cameras(tmp_path):
    path = tmp_path / "cameras.npz"
    drawn = np.random.default_rng(4)
    world, camera = drawn.normal(size=(2, 3, 4)), drawn.normal(size=(2, 3, 3))
    fmt.write_cameras(path, world, camera)
    for found, expected in zip(fmt.read_cameras(path, 2), (world, camera), strict=True):
        np.testing.assert_array_equal(found, expected)
    with refused(CorruptData, "has no world_mat_2, camera_mat_2", path):
        fmt.read_cameras(path, 3)
    fmt.write_cameras(path, world[:, :, :3], camera)
    with refused(CorruptData, r"world_mat_0 is float64 \(3, 3\), expected finite floats \(3, 4\)", path):
        fmt.read_cameras(path, 2)


def encrypted(path):
    """Set the flag of encryption in both headers of every member of a zip file."""
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(mark, start + 1)
    path.write_bytes(content)


def test_encrypted_and_odd_archives(tmp_path):
    path = tmp_path / "points.npz"
    np.savez(path, points=POINTS, occupancies=np.zeros(3, np.uint8))
    encrypted(path)
    with refused(CorruptData, "is not a complete npz file .*encrypted", path):
        fmt.read_points(path)
    for member, content in (("points.npy", b"no array"), ("points.npy", b""), ("points.txt", b"1 2 3")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, content)
            archive.writestr("occupancies.npy", b"\x93NUMPY\x01\x00\xff\xff{'descr'")
        with refused(CorruptData, "", path):
            fmt.read_points(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("points.npy", POINTS.tobytes() * 9)
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with refused(CorruptData, "", path):
        fmt.read_points(path)


@settings(max_examples=60)
@given(st.data())
def test_whatever_bytes_change_the_file_is_read_or_named(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("odd") / "points.npz"
    np.savez(path, points=POINTS, occupancies=np.zeros(3, np.uint8))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(CorruptData):  # any other error fails
        fmt.read_points(path)


def test_hidden_files_are_neither_images_nor_categories(tmp_path):
    folder = tmp_path / "m" / "img_choy2016"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "000.png")
    (folder / "._000.png").write_bytes(b"\x00\x05\x16\x07")
    assert [path.name for path in fmt.image_paths(tmp_path / "m")] == ["000.png"]
    for name in ("vase", ".trash"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.lst").write_text("a")
    assert fmt.read_categories(tmp_path) == [Category("vase", "vase")]


def test_a_name_with_a_comma_that_is_the_folders_is_not_cut(tmp_path):
    own = [Category("cup,old", "cup,old"), Category("cup", "cup")]
    fmt.write_categories(tmp_path, own)
    assert fmt.read_categories(tmp_path) == own
