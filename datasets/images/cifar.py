"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their Python version: pickles, read without executing code in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.download import CorruptData, check_sum, fetch, missing, untar
from datasets.images.loader import ImageSet


class Layout(NamedTuple):
    """File names and dictionary keys of one of the two sets.

    Attributes:
        folder: folder of the files, in the archive and on disk.
        archive: file name of the archive.
        md5: checksum of the archive.
        train: files of the training part.
        test: file of the test part.
        meta: file of the class names.
        labels: key of the labels in the files of the parts.
        names: key of the class names in `meta`.
    """

    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str


URL = "https://www.cs.toronto.edu/~kriz/"
LAYOUTS = {
    10: Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    100: Layout(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        train=("train",),
        test="test",
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
    ),
}


def find_cifar(root: Path, layout: Layout) -> Path:
    """Return the folder of the pickles: on disk, else unpacked from the archive, else downloaded.

    Only the archive has a checksum: pickles that lie in the folder are not checked.

    Args:
        root: data folder.
        layout: file names of the set.

    Raises:
        MissingData: neither folder nor archive exist, and the download fails.
        CorruptData: the archive is damaged.
    """
    folder, archive, url = root / layout.folder, root / layout.archive, URL + layout.archive
    if not folder.exists():
        try:
            fetch(url, archive, md5=layout.md5)
        except OSError as error:
            raise missing(layout.folder, [folder / layout.test, archive], url, root, error) from error
        check_sum(archive, "md5", layout.md5)
        untar(archive, folder, inner=layout.folder)
    return folder


def read_cifar(folder: Path, layout: Layout) -> tuple[ImageSet, ImageSet, list[str]]:
    """Read the set.

    Args:
        folder: folder of the pickles.
        layout: file names of the set.

    Returns:
        Train, test, names of the classes.

    Raises:
        CorruptData: a file is missing, damaged or has other content.
    """
    (names,) = _entries(folder / layout.meta, layout.names)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise CorruptData(f"{folder / layout.meta}: {layout.names} is no list of names")
    names = [name.decode("latin1") if isinstance(name, bytes) else name for name in names]
    parts = [_read_batch(folder / file, layout.labels) for file in layout.train]
    train = ImageSet(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    return train, _read_batch(folder / layout.test, layout.labels), names


def _read_batch(path: Path, key: str) -> ImageSet:
    """Read a file of images: rows of 3072 bytes, 1024 red, 1024 green, 1024 blue, each plane row by row."""
    data, labels = _entries(path, "data", key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        actual = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise CorruptData(f"{path}: data must be uint8 (images, 3072), is {actual}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise CorruptData(f"{path}: {key} is no list of numbers")
    if len(data) != len(labels):
        raise CorruptData(f"{path} has {len(data)} images and {len(labels)} labels")
    return ImageSet(torch.tensor(data).view(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.long))


def _entries(path: Path, *keys: str) -> list[Any]:
    """Return entries of the file's dictionary. Its keys are bytes if Python 3 rewrote it for Python 2."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise CorruptData(f"{path} is no dictionary")
    content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if lacking := [key for key in keys if key not in content]:
        raise CorruptData(f"{path} has no entry {lacking[0]!r}")
    return [content[key] for key in keys]


def read_pickle(path: Path) -> Any:
    """Read a pickle of containers, numbers, text (latin-1 if Python 2 wrote it) and numpy arrays.

    Raises:
        CorruptData: the file is missing or damaged, or names anything else, which is not executed.
    """
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise CorruptData(f"{path} is missing") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CorruptData(f"{path} cannot be read: {error or type(error).__name__}") from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that allows nothing but the functions that rebuild numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class that the pickle names, if it is allowed."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed in such a file")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the encoding {encoding}")
    return text.encode("latin1")
