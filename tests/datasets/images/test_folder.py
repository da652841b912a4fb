"""Folders of image files, and Tiny-ImageNet's layout, written here with Pillow."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.download import CorruptData, MissingData
from datasets.images import folder as module
from datasets.images.datamodule import ImageFolder, TinyImageNet
from datasets.images.folder import image_files


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write(root: Path, files: dict[str, Image.Image]) -> Path:
    for name, image in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return root


def toy(root: Path, test: str = "test") -> Path:
    files = {f"train/{name}/{i}.png": picture(i) for i, name in enumerate(["cat", "ape", "dog", "cat", "dog"])}
    return write(root, files | {f"{test}/dog/a.ppm": picture(9), f"{test}/cat/b.pgm": picture(8, "L")})


def by_pillow(image: Image.Image, mode: str, size: int) -> np.ndarray:
    """(C, size, size)"""
    pixels = np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BILINEAR))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_every_file_is_read_with_the_class_of_its_folder(tmp_path, test, channels, mode):
    toy(tmp_path / "mine", test)
    (tmp_path / "mine" / "train" / "ape" / "readme.txt").write_text("no image")
    data = ImageFolder("mine", size=8, channels=channels, root=tmp_path)
    data.setup()
    assert data.classes == ["ape", "cat", "dog"]
    assert data.train_labels.tolist() == [0, 1, 1, 2, 2]
    for image, seed in zip(data.train_images, [1, 0, 3, 2, 4], strict=True):
        assert np.array_equal(image.numpy(), by_pillow(picture(seed), mode, 8))
    assert data.parts["test"].labels.tolist() == [1, 2]
    assert np.array_equal(data.parts["test"].images[0].numpy(), by_pillow(picture(8, "L"), mode, 8))
    assert data.dims["in_channels"] == channels
    assert data.dims["image_size"] == 8
    pixels = data.train_images.numpy() / 255
    assert data.dims["mean"] == pytest.approx(pixels.mean(axis=(0, 2, 3)), abs=6e-5)
    assert data.dims["std"] == pytest.approx(pixels.std(axis=(0, 2, 3)), abs=6e-5)


def test_an_absolute_folder_is_taken_as_it_is(tmp_path):
    data = ImageFolder(str(toy(tmp_path / "mine")), root=tmp_path / "elsewhere")
    data.setup()
    assert len(data.train_labels) == 5


def refused(root: Path) -> str:
    with pytest.raises(CorruptData) as error:
        ImageFolder(".", root=root).setup()
    return str(error.value)


def test_folders_that_make_no_classification(tmp_path):
    a, b, c, d, e, f = (tmp_path / name for name in "abcdef")
    (a / "train").mkdir(parents=True)
    assert "no folder test or val" in refused(a)
    (a / "test").mkdir()
    assert "two or more classes, has none" in refused(a)
    write(b, {"train/cat/1.png": picture(0), "test/cat/1.png": picture(0)})
    assert "two or more classes, has ['cat']" in refused(b)
    write(toy(c), {"test/cow/1.png": picture(0)})
    assert "classes that" in refused(c)
    assert "cow" in refused(c)
    (toy(d) / "train" / "empty").mkdir()
    assert "no images of the classes empty" in refused(d)
    write(e, {"train/cat/1.png": picture(0), "train/dog/1.png": picture(0)})
    (e / "test" / "cat").mkdir(parents=True)
    assert f"{e / 'test'} has no images" in refused(e)
    with pytest.raises(MissingData, match=str(f)):
        ImageFolder("f", root=tmp_path).setup()


def test_images_in_sub_folders_belong_to_the_class(tmp_path):
    toy(tmp_path)
    write(tmp_path, {"train/dog/more/deep/z.png": picture(20), "train/ape/more/a.png": picture(21)})
    data = ImageFolder(".", size=8, root=tmp_path)
    data.setup()
    assert data.classes == ["ape", "cat", "dog"]
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert np.array_equal(data.train_images[-1].numpy(), by_pillow(picture(20), "RGB", 8))


def test_a_class_may_have_its_images_in_sub_folders_alone(tmp_path):
    write(toy(tmp_path), {"train/cow/2024/1.png": picture(20)})
    data = ImageFolder(".", size=8, root=tmp_path)
    data.setup()
    assert data.classes == ["ape", "cat", "cow", "dog"]


def test_links_are_followed_and_circles_end(tmp_path):
    toy(tmp_path)
    write(tmp_path / "elsewhere", {"1.png": picture(20)})
    os.symlink(tmp_path / "elsewhere", tmp_path / "train" / "dog" / "linked")
    os.symlink(tmp_path / "train" / "dog", tmp_path / "train" / "dog" / "linked" / "back")
    assert len(image_files(tmp_path / "train" / "dog")) == 3


def test_hidden_files_and_those_of_operating_systems_are_left_out_and_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    toy(tmp_path)
    for part in ("train", "test"):
        write(tmp_path, {f"{part}/{name}/1.png": picture(0) for name in (".trash", "__MACOSX", ".ipynb_checkpoints")})
        write(tmp_path, {f"{part}/dog/.ipynb_checkpoints/0-checkpoint.png": picture(1)})
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
            (tmp_path / part / "dog" / name).write_bytes(b"no image")
        (tmp_path / part / "Thumbs.db").write_bytes(b"no image")
    data = ImageFolder(".", size=8, root=tmp_path)
    data.setup()
    assert data.classes == ["ape", "cat", "dog"]
    assert (len(data.train_labels), len(data.parts["test"].labels)) == (5, 2)
    assert f"{tmp_path / 'train' / 'dog'}: left out 1 files .txt, 5 hidden files or folders" in caplog.text


def test_what_else_is_not_read_is_said(tmp_path, caplog):
    write(toy(tmp_path), {"train/loose.png": picture(0), "val/dog/1.png": picture(0)})
    ImageFolder(".", size=8, root=tmp_path).setup()
    assert f"{tmp_path / 'train'}: 1 images in no class folder are left out, such as loose.png" in caplog.text
    assert f"{tmp_path / 'val'} is not read" in caplog.text
    assert f"{tmp_path / 'test'} has no images of the classes ape" in caplog.text


@pytest.mark.parametrize(
    "damage", [lambda c: c[:200], lambda c: b"", lambda c: b"<html>", lambda c: c[:60] + b"?" + c[61:]]
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage):
    path = toy(tmp_path) / "train" / "dog" / "2.png"
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} is no image that can be read" in refused(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"), [({"size": 0}, "size"), ({"channels": 2}, "channels=2 is unknown; choose from 1, 3")]
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ImageFolder("x", **options)


def test_the_faces_as_an_image_folder(runner_data, tmp_path):
    faces = runner_data / "images" / "att_faces"
    if not faces.is_dir():
        pytest.skip(f"{faces} is not there")
    for part, numbers in {"train": range(1, 9), "test": range(9, 11)}.items():
        for person in range(1, 41):
            (tmp_path / part / f"s{person:02d}").mkdir(parents=True)
            for number in numbers:
                os.symlink(faces / f"s{person}" / f"{number}.pgm", tmp_path / part / f"s{person:02d}" / f"{number}.pgm")
    data = ImageFolder(".", size=32, channels=1, root=tmp_path)
    data.setup()
    assert data.train_labels.bincount().tolist() == [8] * 40
    assert data.parts["test"].images.shape == (80, 1, 32, 32)


WNIDS = ["n02", "n01", "n03"]


def tiny(root: Path) -> Path:
    small = (64, 64)
    files = {f"train/{w}/images/{w}_{i}.JPEG": picture(i, "L" if i else "RGB", small) for w in WNIDS for i in range(2)}
    write(root, files | {f"val/images/val_{i}.JPEG": picture(i, size=small) for i in range(4)})
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn04\tnobody\n")
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n" for i, wnid in enumerate(["n03", "n02", "n02", "n01"])]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_tiny_imagenet(tmp_path):
    root = tiny(tmp_path / "tiny-imagenet-200")
    data = TinyImageNet(root=tmp_path)
    data.setup()
    assert data.classes == ["bullfrog", "goldfish, Carassius auratus", "n03"]
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.parts["test"].labels.tolist() == [2, 0, 0, 1]
    for i, image in enumerate(data.parts["test"].images):
        theirs = np.asarray(Image.open(root / "val" / "images" / f"val_{i}.JPEG"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), theirs)
    assert data.dims["in_channels"] == 3  # some of its files are grey


def test_tiny_imagenet_of_another_size_or_class_or_incomplete(tmp_path):
    root = tiny(tmp_path / "tiny-imagenet-200")
    path = root / "val" / "images" / "val_2.JPEG"
    write(root, {"val/images/val_2.JPEG": picture(0, size=(64, 63))})
    expected = {f"{path} is 64 x 63 pixels": None}
    expected[f"{path} is no image"] = path.unlink
    annotations = root / "val" / "val_annotations.txt"
    expected["no class of wnids.txt in the line 'val_0.JPEG n03'"] = lambda: annotations.write_text("val_0.JPEG n03")
    expected["val_annotations.txt has no images"] = lambda: annotations.write_text("")
    expected["wnids.txt must name two or more"] = lambda: (root / "wnids.txt").write_text("n01\nn01\n")
    expected["wnids.txt is missing"] = (root / "wnids.txt").unlink
    for said, damage in expected.items():
        if damage:
            damage()
        with pytest.raises(CorruptData) as error:
            TinyImageNet(root=tmp_path).setup()
        assert said in str(error.value)


def test_tiny_imagenet_from_its_archive(tmp_path, monkeypatch):
    root, archive = tiny(tmp_path / "made" / "tiny-imagenet-200"), tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(root.parent))
    with pytest.raises(CorruptData, match="md5"):
        TinyImageNet(root=tmp_path).setup()
    monkeypatch.setattr(module, "TINY_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = TinyImageNet(root=tmp_path)
    data.setup()
    assert len(data.train_labels) == 6
    assert (tmp_path / "tiny-imagenet-200" / "wnids.txt").exists()


def test_tiny_imagenet_neither_files_nor_network(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TINY_URL", "http://127.0.0.1:9/tiny.zip")
    with pytest.raises(MissingData, match=r"tiny-imagenet-200/wnids\.txt"):
        TinyImageNet(root=tmp_path).setup()
