"""CIFAR's pickles and archives; pickles that would do more than hold arrays."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from datasets.download import CorruptData, MissingData
from datasets.images import cifar
from datasets.images.cifar import LAYOUTS, read_pickle
from datasets.images.datamodule import CIFAR


def batch(count: int, key: str, classes: int, seed: int) -> dict:
    random = np.random.default_rng(seed)
    labels = [int(label) for label in random.integers(0, classes, count)]
    return {"data": random.integers(0, 256, (count, 3072), dtype=np.uint8), key: labels}


def toy(variant: int) -> dict[str, dict]:
    layout = LAYOUTS[variant]
    files = [*layout.train, layout.test]
    content = {file: batch(3, layout.labels, variant, seed) for seed, file in enumerate(files)}
    return content | {layout.meta: {layout.names: [f"class {i}" for i in range(variant)]}}


def write(folder: Path, content: dict[str, dict], protocol: int = 2) -> Path:
    folder.mkdir(parents=True)
    for file, values in content.items():
        (folder / file).write_bytes(pickle.dumps(values, protocol))
    return folder


def python2(content: dict) -> bytes:
    """As Python 2 wrote it: text as SHORT_BINSTRING and BINSTRING, the array's bytes in one of those."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    array, labels = content["data"], content["labels"]
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    data = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    shape = b"J" + struct.pack("<i", array.shape[0]) + b"J" + struct.pack("<i", array.shape[1]) + b"\x86"
    data += b"(K\x01" + shape + dtype + b"\x89" + text(array.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + data + text(b"labels") + numbers + b"u."


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("variant", [10, 100])
def test_what_is_written_is_read(tmp_path, variant, protocol):
    layout, content = LAYOUTS[variant], toy(variant)
    write(tmp_path / layout.folder, content, protocol)
    data = CIFAR(variant, root=tmp_path)
    data.setup()
    train = np.concatenate([content[file]["data"] for file in layout.train])
    assert data.classes == [f"class {i}" for i in range(variant)]
    assert data.dims["num_classes"] == variant
    assert data.train_labels.tolist() == [label for file in layout.train for label in content[file][layout.labels]]
    for i, row in enumerate(train):  # red plane first, each plane row by row
        for channel in range(3):
            plane = row[1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
            assert np.array_equal(data.train_images[i, channel].numpy(), plane)
    assert np.array_equal(data.parts["test"].images.flatten(1).numpy(), content[layout.test]["data"])


def test_bytes_as_keys(tmp_path):
    content = {file: {key.encode(): value for key, value in values.items()} for file, values in toy(10).items()}
    content["batches.meta"] = {b"label_names": [f"class {i}".encode() for i in range(10)]}
    write(tmp_path / "cifar-10-batches-py", content)
    data = CIFAR(10, root=tmp_path)
    data.setup()
    assert data.classes[9] == "class 9"


def test_what_python_2_wrote(tmp_path):
    content = batch(4, "labels", 10, seed=1)
    path = tmp_path / "data_batch_1"
    path.write_bytes(python2(content))
    read = read_pickle(path)
    assert read.keys() == content.keys()
    assert np.array_equal(read["data"], content["data"])
    assert read["data"].dtype == np.uint8
    assert read["labels"] == content["labels"]


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ((os.system, "touch evil"), f"{os.system.__module__}.system"),
        ((eval, "open('evil', 'w')"), "eval"),
        ((np.load, "evil"), "load"),
        ((getattr, np, "load"), "getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_names_anything_else_is_refused_before_it_runs(tmp_path, monkeypatch, call, named, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    if call[0] is getattr:  # a module cannot be pickled: only the name is of interest
        call = (getattr, "text", "upper")
    path.write_bytes(pickle.dumps({"data": Evil(*call)}, protocol))
    with pytest.raises(CorruptData, match=f"names .*{named}") as error:
        read_pickle(path)
    assert str(path) in str(error.value)
    assert os.listdir(tmp_path) == ["data_batch_1"]


def test_an_encoding_other_than_latin1_is_refused(tmp_path):
    path = tmp_path / "meta"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.")
    with pytest.raises(CorruptData, match="encoding zip"):
        read_pickle(path)


@pytest.mark.parametrize("damage", [lambda c: c[:-10], lambda c: c[:100], lambda c: b"", lambda c: b"<html>404</html>"])
def test_a_damaged_pickle_is_named(tmp_path, damage):
    folder = write(tmp_path / "cifar-10-batches-py", toy(10))
    path = folder / "data_batch_3"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptData, match=f"{path} cannot be read"):
        CIFAR(10, root=tmp_path).setup()


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("test_batch", {"labels": [1]}, "no entry 'data'"),
        ("test_batch", ["data"], "no dictionary"),
        ("test_batch", {"data": [1, 2], "labels": [1]}, "data must be .* is list"),
        ("test_batch", {"data": np.zeros((2, 3072)), "labels": [1, 2]}, r"data must be .* is float64 \(2, 3072\)"),
        ("test_batch", {"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}, r"is uint8 \(2, 3071\)"),
        ("test_batch", {"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "2 images and 1 labels"),
        ("test_batch", {"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]}, "labels is no list of numbers"),
        (
            "test_batch",
            {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
            r"labels from 10 to 10, expected 0\.\.9",
        ),
        ("batches.meta", {"label_names": [1]}, "no list of names"),
    ],
)
def test_a_file_with_something_else_in_it_is_named(tmp_path, file, values, said):
    write(tmp_path / "cifar-10-batches-py", toy(10) | {file: values})
    with pytest.raises(CorruptData, match=said):
        CIFAR(10, root=tmp_path).setup()


def test_a_file_that_is_missing_from_the_folder_is_named(tmp_path):
    folder = write(tmp_path / "cifar-10-batches-py", toy(10))
    (folder / "data_batch_5").unlink()
    with pytest.raises(CorruptData, match="data_batch_5 is missing"):
        CIFAR(10, root=tmp_path).setup()


def archive(root: Path) -> Path:
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, values in toy(10).items():
            content = pickle.dumps(values, 2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_is_unpacked_beside_it_if_it_is_the_official_one(tmp_path, monkeypatch):
    path = archive(tmp_path)
    with pytest.raises(CorruptData, match=r"has md5 .* expected c58f30108f718f92721af3b95e74349a") as error:
        CIFAR(10, root=tmp_path).setup()
    assert str(path) in str(error.value)
    assert os.listdir(tmp_path) == [path.name]
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.LAYOUTS, 10, LAYOUTS[10]._replace(md5=digest))
    data = CIFAR(10, root=tmp_path)
    data.setup()
    assert len(data.train_labels) == 15
    assert sorted(os.listdir(tmp_path)) == ["cifar-10-batches-py", path.name]
    assert sorted(os.listdir(tmp_path / "cifar-10-batches-py")) == sorted(toy(10))


def test_neither_files_nor_network(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/")
    with pytest.raises(MissingData) as error:
        CIFAR(100, root=tmp_path).setup()
    for part in (f"{tmp_path}/cifar-100-python/", f"{tmp_path}/cifar-100-python.tar.gz", "127.0.0.1:9"):
        assert part in str(error.value)
    assert os.listdir(tmp_path) == []


def test_another_variant_is_refused():
    with pytest.raises(ValueError, match=r"dataset\.variant=20 is unknown; choose from 10, 100"):
        CIFAR(20)
