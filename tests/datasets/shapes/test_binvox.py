"""Voxel files: round trips, trimesh's reader, files that are damaged."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from trimesh.exchange.binvox import load_binvox

from datasets.download import CorruptData
from datasets.shapes.binvox import read_binvox, write_binvox


@given(arrays.arrays(bool, st.tuples(*[st.integers(1, 9)] * 3)))
def test_what_is_written_is_read(tmp_path_factory, voxels):
    path = tmp_path_factory.mktemp("binvox") / "model.binvox"
    write_binvox(path, voxels)
    assert (read_binvox(path) == voxels).all()
    assert read_binvox(path).shape == voxels.shape


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])  # 0 and 1: runs much longer than a byte can say
def test_trimesh_reads_the_same(tmp_path, share):
    voxels = np.random.default_rng(0).uniform(size=(32, 32, 32)) < share
    write_binvox(tmp_path / "model.binvox", voxels)
    content = (tmp_path / "model.binvox").read_bytes()
    grid = load_binvox(io.BytesIO(content))
    assert (grid.matrix == voxels).all()
    np.testing.assert_allclose(grid.translation, -0.5)


def test_order_of_axes(tmp_path):
    """A file written by hand: y runs fastest, then z, then x."""
    path = tmp_path / "model.binvox"
    path.write_bytes(b"#binvox 1\ndim 2 2 2\ntranslate 0 0 0\nscale 1\ndata\n" + bytes([0, 5, 1, 1, 0, 2]))
    assert np.argwhere(read_binvox(path)).tolist() == [[1, 1, 0]]


HEADER = b"#binvox 1\ndim 2 2 2\ntranslate 0 0 0\nscale 1\ndata\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not begin"),
        (b"\x89PNG\r\n", "does not begin"),
        (HEADER.replace(b"dim 2 2 2\n", b""), "does not begin"),
        (HEADER + bytes([0, 7, 1]), "ends within a run"),
        (HEADER + bytes([0, 7]), "runs of 7 voxels in all, its header says 2 x 2 x 2 = 8"),
        (HEADER + bytes([0, 7, 1, 2]), "runs of 9 voxels"),
        (HEADER, "runs of 0 voxels"),
        (HEADER + bytes([0, 7, 3, 1]), "a voxel of value 3"),
        (HEADER.replace(b"2 2 2", b"99999 99999 99999") + bytes([0, 7]), "runs of 7 voxels"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, said):
    path = tmp_path / "model.binvox"
    path.write_bytes(content)
    with pytest.raises(CorruptData, match=said) as raised:
        read_binvox(path)
    assert str(path) in str(raised.value)
