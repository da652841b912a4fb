"""The idx format, written here byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.download import CorruptData, MissingData
from datasets.images.datamodule import MNIST, FashionMNIST
from datasets.images.idx import read_idx


def idx(values: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def toy(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "train-images-idx3-ubyte": random.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": (np.arange(12) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.array([3, 9, 0, 1, 1], dtype=np.uint8),
    }


def write(root: Path, arrays: dict[str, np.ndarray], name: str = "MNIST", packed: bool = False) -> Path:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for file, values in arrays.items():
        if packed:
            (folder / f"{file}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / file).write_bytes(idx(values))
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
def test_what_is_written_is_read(tmp_path, packed, source):
    arrays = toy()
    write(tmp_path, arrays, source.folder, packed)
    data = source(root=tmp_path)
    data.setup()
    assert np.array_equal(data.train_images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert np.array_equal(data.train_labels.numpy(), arrays["train-labels-idx1-ubyte"])
    assert np.array_equal(data.parts["test"].images[:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    assert data.parts["test"].labels.tolist() == [3, 9, 0, 1, 1]
    assert data.train_labels.dtype == torch.int64
    assert len(data.classes) == 10


def corrupt(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CorruptData) as error:
        read_idx(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_damaged_file_is_named(tmp_path):
    good, path = idx(np.zeros((3, 4, 4), dtype=np.uint8)), tmp_path / "x-idx3-ubyte"
    assert "begins with 3c 21 44 4f" in corrupt(path, b"<!DOCTYPE html>")
    assert "begins with nothing" in corrupt(path, b"")
    assert "begins with 00 00 0d 03" in corrupt(path, good[:2] + b"\x0d" + good[3:])  # floats
    assert "begins with 00 00 08 03" in corrupt(path, good[:9])
    assert "63 bytes, but 64" in corrupt(path, good[:-1])
    assert "65 bytes, but 64" in corrupt(path, good + b"\0")
    huge = b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    assert "16 bytes, but 79228162" in corrupt(path, huge)


@pytest.mark.parametrize("damage", [lambda c: c[:-20], lambda c: b"<html>", lambda c: c[:30] + b"??" + c[32:]])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    packed = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8)))
    assert "no whole gzip file" in corrupt(tmp_path / "x-idx3-ubyte.gz", damage(packed))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("train-labels-idx1-ubyte", np.zeros(11, dtype=np.uint8), "12 images, but .* 11 labels"),
        ("train-labels-idx1-ubyte", np.full(12, 10, dtype=np.uint8), r"labels from 10 to 10, expected 0\.\.9"),
        ("train-images-idx3-ubyte", np.zeros((12, 784), dtype=np.uint8), "2 dimensions, expected 3"),
        ("t10k-images-idx3-ubyte", np.zeros((5, 27, 27), dtype=np.uint8), r"test part has images of \(1, 27, 27\)"),
    ],
)
def test_files_that_contradict_each_other(tmp_path, file, values, said):
    write(tmp_path, toy() | {file: values})
    with pytest.raises(CorruptData, match=said):
        MNIST(root=tmp_path).setup()


def test_a_missing_file_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "url", "http://127.0.0.1:9/")
    folder = write(tmp_path, toy())
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingData) as error:
        MNIST(root=tmp_path).setup()
    for part in (f"{folder}/t10k-labels-idx1-ubyte\n", f"{folder}/t10k-labels-idx1-ubyte.gz", "127.0.0.1:9/t10k"):
        assert part in str(error.value)
