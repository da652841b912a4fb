"""Sets with the web's wrong labels, in their published layouts, written here with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.download import CorruptData, MissingData
from datasets.images.datamodule import Clothing1M, MiniWebVision, RedMiniImageNet
from datasets.images.webnoise import read_center


def picture(path: Path, colour: int, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 255 - colour)).save(path)


def text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def colours(part) -> list[int]:
    return part.images[:, 0, 0, 0].tolist()


def red(root: Path) -> Path:
    folder = root / "red_mini_imagenet_s32"
    train = {"b.png": 99, "n01.png": 0, "a.png": 3}
    test = {"c.png": 0, "d.png": 42}
    for colour, (name, label) in enumerate(train.items()):
        picture(folder / "training_s32" / "red_noise_nl_0.4" / str(label) / name, colour)
    for colour, (name, label) in enumerate(test.items()):
        picture(folder / "validation_s32" / str(label) / name, 100 + colour)
    text(folder / "split" / "red_noise_nl_0.4", [f"{name} {label}" for name, label in train.items()])
    text(folder / "split" / "clean_validation", [f"{name} {label}" for name, label in test.items()])
    return folder


def test_red_mini_imagenet(tmp_path):
    red(tmp_path)
    data = RedMiniImageNet(level=0.4, root=tmp_path)
    data.setup()
    assert data.train_labels.tolist() == [99, 0, 3]
    assert data.parts["test"].labels.tolist() == [0, 42]
    assert colours(data.parts["train"]) == [0, 1, 2]
    assert colours(data.parts["test"]) == [100, 101]
    assert (data.dims["num_classes"], data.dims["image_size"]) == (100, 32)
    assert not data.noisy.any()


def test_red_mini_imagenet_without_its_files_or_with_others(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.level=0\.7 is unknown; choose from 0\.0, 0\.05"):
        RedMiniImageNet(level=0.7)
    with pytest.raises(MissingData, match=r"red_mini_imagenet_s32/split/red_noise_nl_0\.2"):
        RedMiniImageNet(level=0.2, root=tmp_path).setup()
    folder = red(tmp_path)
    for line in ("a.png 100", "a.png", "a.png one", "a.png -1"):
        text(folder / "split" / "red_noise_nl_0.4", [line])
        with pytest.raises(CorruptData, match=rf"a class 0\.\.99, got the line '{line}'"):
            RedMiniImageNet(level=0.4, root=tmp_path).setup()
    text(folder / "split" / "red_noise_nl_0.4", ["z.png 3"])
    with pytest.raises(CorruptData, match=r"red_noise_nl_0\.4/3/z\.png is no image"):
        RedMiniImageNet(level=0.4, root=tmp_path).setup()


def test_mini_webvision_is_its_first_50_classes(tmp_path):
    folder = tmp_path / "webvision"
    for colour, name in enumerate(["google/q1/a.png", "google/q2/b.png"]):
        picture(folder / name, colour, (40, 30))
    picture(folder / "val_images_256" / "val1.png", 7, (30, 50))
    text(folder / "info" / "train_filelist_google.txt", ["google/q1/a.png 49", "flickr/c.png 50", "google/q2/b.png 0"])
    text(folder / "info" / "val_filelist.txt", ["val0.png 999", "val1.png 3"])
    data = MiniWebVision(size=16, resize=20, root=tmp_path)
    data.setup()
    assert data.train_labels.tolist() == [49, 0]
    assert data.parts["test"].labels.tolist() == [3]
    assert colours(data.parts["train"]) == [0, 1]
    assert colours(data.parts["test"]) == [7]
    assert data.dims["num_classes"] == 50
    assert data.dims["image_size"] == 16
    with pytest.raises(MissingData, match=r"webvision/info/train_filelist_google\.txt"):
        MiniWebVision(size=16, resize=16, root=tmp_path / "elsewhere").setup()
    with pytest.raises(ValueError, match=r"dataset\.size must be positive and at most dataset\.resize, got 20 and 16"):
        MiniWebVision(size=20, resize=16)


def clothing(root: Path, inner: str) -> Path:
    folder = root / "clothing1m"
    noisy = {f"images/0/{i}.png": i % 14 for i in range(42)}
    clean = {"images/1/x.png": 13, "images/1/y.png": 2}
    for colour, name in enumerate([*noisy, *clean]):
        picture(folder / inner / name.removeprefix("images/"), colour, (20, 24))
    text(folder / "noisy_label_kv.txt", [f"{name} {label}" for name, label in noisy.items()])
    text(folder / "clean_label_kv.txt", [f"{name} {label}" for name, label in clean.items()])
    text(folder / "noisy_train_key_list.txt", list(noisy)[::-1])
    text(folder / "clean_test_key_list.txt", list(clean))
    return folder


@pytest.mark.parametrize("inner", ["images", "."])
def test_clothing1m(tmp_path, inner):
    clothing(tmp_path, inner)
    data = Clothing1M(size=14, resize=16, root=tmp_path)
    data.setup()
    assert data.train_labels.tolist() == [i % 14 for i in range(42)][::-1]
    assert colours(data.parts["train"]) == list(range(42))[::-1]
    assert data.parts["test"].labels.tolist() == [13, 2]
    assert colours(data.parts["test"]) == [42, 43]


def test_clothing1m_class_balanced(tmp_path):
    folder = clothing(tmp_path, "images")
    data, other = (Clothing1M(per_class=2, size=14, resize=16, root=tmp_path, split_seed=seed) for seed in (0, 1))
    data.setup()
    other.setup()
    assert data.train_labels.bincount().tolist() == [2] * 14
    assert [colour % 14 for colour in colours(data.parts["train"])] == data.train_labels.tolist()
    assert colours(data.parts["train"]) != colours(other.parts["train"])
    with pytest.raises(CorruptData, match=r"3 images of its smallest class, dataset\.per_class=4"):
        Clothing1M(per_class=4, size=14, resize=16, root=tmp_path).setup()
    with pytest.raises(ValueError, match=r"dataset\.per_class must be positive"):
        Clothing1M(per_class=0, size=14, resize=16)
    text(folder / "clean_test_key_list.txt", ["images/1/unknown.png"])
    with pytest.raises(CorruptData, match=r"images/1/unknown\.png has no label in clean_label_kv\.txt"):
        Clothing1M(size=14, resize=16, root=tmp_path).setup()


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 61), (40, 40)])
def test_the_middle_of_an_image_is_kept(tmp_path, width, height):
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    scale = 20 / min(width, height)  # as it is usually done: all of it made smaller, then cut
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 16) // 2, (resized.height - 16) // 2
    expected = np.asarray(resized.crop((left, top, left + 16, top + 16))).transpose(2, 0, 1).astype(int)
    found = read_center(tmp_path / "a.png", 16, 20)
    assert found.shape == (3, 16, 16)
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy() - expected).mean() < 6  # over 20 where it is a pixel off; half of one is rounding
    tiny = read_center(tmp_path / "a.png", 1, 1000)
    assert tiny.shape == (3, 1, 1)
