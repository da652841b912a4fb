"""Reader of the idx format of MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.download import CorruptData, fetch, first_existing, missing
from datasets.images.loader import ImageSet

NAMES = {"train": "train", "test": "t10k"}  # part -> its name in the file names


def find_idx(root: Path, name: str, url: str, md5: dict[str, str]) -> dict[str, Path]:
    """Return the paths of the four files below root/NAME/raw, plain or as .gz; missing ones are downloaded.

    Args:
        root: data folder.
        name: folder of the set.
        url: address of the .gz files, with a slash at its end.
        md5: file name without .gz -> checksum of the .gz file, checked after a download.

    Raises:
        MissingData: a file is missing, and its download fails.
        CorruptData: a downloaded file has another checksum.
    """
    paths = {}
    for file, checksum in md5.items():
        raw = root / name / "raw" / file
        packed = raw.with_name(f"{file}.gz")
        path = first_existing(raw, packed)
        try:
            paths[file] = path or fetch(f"{url}{packed.name}", packed, md5=checksum)
        except OSError as error:
            raise missing(f"{file} of {name}", [raw, packed], f"{url}{packed.name}", root, error) from error
    return paths


def read_idx(path: Path) -> Tensor:
    """Read a uint8 tensor of any shape from an idx file, plain or compressed by gzip.

    The file has two zero bytes, an 8 for unsigned bytes, the number of dimensions, each dimension as a big-endian
    uint32, and the values.

    Raises:
        CorruptData: the file is damaged or has another format.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorruptData(f"{path} is no whole gzip file ({error}); remove it to download it again") from error
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != b"\0\0\x08" or not dimensions or len(content) < start:
        raise CorruptData(f"{path} is no idx file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise CorruptData(f"{path} has {len(content)} bytes, but {expected} for the shape {shape} that it gives")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].view(shape)


def read_idx_set(files: dict[str, Path], part: str) -> ImageSet:
    """Read the images and labels of a part.

    Args:
        files: paths as `find_idx` returns them.
        part: "train" or "test".

    Raises:
        CorruptData: a file is damaged, or images and labels do not fit together.
    """
    paths = [files[f"{NAMES[part]}-{kind}-ubyte"] for kind in ("images-idx3", "labels-idx1")]
    images, labels = map(read_idx, paths)
    for path, read, dimensions in zip(paths, (images, labels), (3, 1), strict=True):
        if read.dim() != dimensions:
            raise CorruptData(f"{path} has {read.dim()} dimensions, expected {dimensions}")
    if len(images) != len(labels):
        raise CorruptData(f"{paths[0]} has {len(images)} images, but {paths[1]} has {len(labels)} labels")
    return ImageSet(images[:, None], labels.long())
