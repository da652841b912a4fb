"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their Python version: pickles, read without running what they name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.download import CorruptData, check_sum, fetch, missing, untar
from datasets.images.loader import ImageSet


class Layout(NamedTuple):
    """Where one of the two keeps what; md5 of the archive."""

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
    """The folder of the pickles, else unpacked from the archive below `root`, else downloaded.

    The checksum is the archive's: pickles that lie in the folder are taken as they are. Raises MissingData,
    CorruptData.
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
    """Train, test, names of the classes. Raises CorruptData."""
    (names,) = _entries(folder / layout.meta, layout.names)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise CorruptData(f"{folder / layout.meta}: {layout.names} is no list of names")
    names = [name.decode("latin1") if isinstance(name, bytes) else name for name in names]
    parts = [_read_batch(folder / file, layout.labels) for file in layout.train]
    train = ImageSet(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    return train, _read_batch(folder / layout.test, layout.labels), names


def _read_batch(path: Path, key: str) -> ImageSet:
    """Rows of 3072 bytes: 1024 red, 1024 green, 1024 blue, each plane row by row."""
    data, labels = _entries(path, "data", key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise CorruptData(f"{path}: data must be uint8 (images, 3072), is {found}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise CorruptData(f"{path}: {key} is no list of numbers")
    if len(data) != len(labels):
        raise CorruptData(f"{path} has {len(data)} images and {len(labels)} labels")
    return ImageSet(torch.tensor(data).view(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.long))


def _entries(path: Path, *keys: str) -> list[Any]:
    """The entries of the file's dictionary, whose keys and text are bytes where Python 3 rewrote it for Python 2."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise CorruptData(f"{path} is no dictionary")
    content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if lacking := [key for key in keys if key not in content]:
        raise CorruptData(f"{path} has no entry {lacking[0]!r}")
    return [content[key] for key in keys]


def read_pickle(path: Path) -> Any:
    """What a pickle of containers, numbers, text (latin-1 where Python 2 wrote it) and numpy arrays holds.

    Raises CorruptData for a damaged file, and for one that names anything else, before that is run.
    """
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise CorruptData(f"{path} is missing") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CorruptData(f"{path} cannot be read: {error or type(error).__name__}") from error


class _ArraysOnly(pickle.Unpickler):
    """Refuses all but what numpy's arrays are rebuilt by."""

    def find_class(self, module: str, name: str) -> Callable:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1
        raise pickle.UnpicklingError(f"it names {module}.{name}, which such a file has no need of")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the encoding {encoding}")
    return text.encode("latin1")
