"""The idx format of MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017)."""

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

NAMES = {"train": "train", "test": "t10k"}  # as the files call the parts


def find_idx(root: Path, name: str, url: str, md5: dict[str, str]) -> dict[str, Path]:
    """The four files below root/NAME/raw, as they are or as .gz, downloaded where one is missing.

    md5: file without .gz -> of its .gz at `url`, checked after a download. Raises MissingData, CorruptData.
    """
    found = {}
    for file, checksum in md5.items():
        raw = root / name / "raw" / file
        packed = raw.with_name(f"{file}.gz")
        path = first_existing(raw, packed)
        try:
            found[file] = path or fetch(f"{url}{packed.name}", packed, md5=checksum)
        except OSError as error:
            raise missing(f"{file} of {name}", [raw, packed], f"{url}{packed.name}", root, error) from error
    return found


def read_idx(path: Path) -> Tensor:
    """A tensor of uint8 of any shape, of a file that may be packed by gzip. Raises CorruptData.

    The file: two zero bytes, 8 (unsigned bytes), the number of dimensions, each of them as a big-endian uint32, the
    values.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorruptData(f"{path} is no whole gzip file ({error}); remove it to get it anew") from error
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
    """The images and labels of `train` or `test`. Raises CorruptData where they do not go together."""
    paths = [files[f"{NAMES[part]}-{kind}-ubyte"] for kind in ("images-idx3", "labels-idx1")]
    images, labels = map(read_idx, paths)
    for path, read, dimensions in zip(paths, (images, labels), (3, 1), strict=True):
        if read.dim() != dimensions:
            raise CorruptData(f"{path} has {read.dim()} dimensions, expected {dimensions}")
    if len(images) != len(labels):
        raise CorruptData(f"{paths[0]} has {len(images)} images, but {paths[1]} has {len(labels)} labels")
    return ImageSet(images[:, None], labels.long())
