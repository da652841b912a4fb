"""Voxels in binvox files: an ASCII header, then runs of equal voxels, two bytes each: value and length.

`trimesh.exchange.binvox` reads the same arrays, more slowly and without messages that name the damage.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.download import CorruptData

HEADER = re.compile(rb"#binvox 1\ndim (\d+) (\d+) (\d+)\ntranslate (\S+) (\S+) (\S+)\nscale (\S+)\ndata\n", re.ASCII)
LONGEST_RUN = 255


def read_binvox(path: Path) -> NDArray[np.bool_]:
    """Read voxels (X, Y, Z). The file runs through y fastest, then z, then x.

    Raises:
        CorruptData: if the file is damaged.
    """
    content = path.read_bytes()
    header = HEADER.match(content)
    if header is None:
        raise CorruptData(
            f"{path} is not a binvox file: it does not begin with the lines #binvox 1, dim, translate, scale, data "
            f"({content[:40]!r})"
        )
    x, y, z = (int(number) for number in header.groups()[:3])
    runs = np.frombuffer(content, np.uint8, offset=header.end())
    if len(runs) % 2:
        raise CorruptData(f"{path} ends within a run: it is cut off")
    values, counts = runs[::2], runs[1::2]
    if values.size and values.max() > 1:
        raise CorruptData(f"{path} has a voxel of value {values.max()}, expected 0 or 1")
    total = int(counts.sum(dtype=np.int64))
    if total != x * y * z:
        raise CorruptData(f"{path} has runs of {total} voxels in all, its header says {x} x {y} x {z} = {x * y * z}")
    return np.repeat(values.astype(bool), counts).reshape(x, z, y).transpose(0, 2, 1)


def write_binvox(path: Path, voxels: NDArray[np.bool_]) -> None:
    """Write voxels (X, Y, Z) of the unit cube around the origin."""
    flat = voxels.transpose(0, 2, 1).ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=len(flat))
    pieces = -(-lengths // LONGEST_RUN)
    counts = np.full(pieces.sum(), LONGEST_RUN, np.uint8)
    counts[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * LONGEST_RUN
    runs = np.stack([np.repeat(flat[starts], pieces).astype(np.uint8), counts], 1)
    dim = " ".join(map(str, voxels.shape))
    header = f"#binvox 1\ndim {dim}\ntranslate -0.5 -0.5 -0.5\nscale 1\ndata\n"
    path.write_bytes(header.encode() + runs.tobytes())
