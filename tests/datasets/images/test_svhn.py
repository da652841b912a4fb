"""SVHN's MATLAB files."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from datasets.download import CorruptData, MissingData
from datasets.images import svhn
from datasets.images.datamodule import SVHN

GOOD = {
    "X": np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8),
    "y": np.array([[1], [10], [9], [2]], dtype=np.uint8),
}


@pytest.mark.parametrize("folder", ["SVHN", "svhn", "."])
def test_ten_stands_for_zero_and_images_are_turned_to_channels_first(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for part in ("train", "test"):
        savemat(tmp_path / folder / f"{part}_32x32.mat", GOOD, do_compression=True)
    data = SVHN(root=tmp_path)
    data.setup()
    assert data.train_labels.tolist() == [1, 0, 9, 2]
    assert data.classes[0] == "0"
    for image in range(4):
        for channel in range(3):
            assert np.array_equal(data.train_images[image, channel].numpy(), GOOD["X"][:, :, channel, image])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"X": GOOD["X"][:, :, :, :3]}, "3 images and 4 labels"),
        ({"X": GOOD["X"][:31]}, r"X must be .* is uint8 \(31, 32, 3, 4\)"),
        ({"X": GOOD["X"].astype(float)}, "is float64"),
        ({"y": np.array([[0], [1], [2], [3]])}, r"y must lie in 1\.\.10"),
        ({"y": np.array([[11], [1], [2], [3]])}, r"y must lie in 1\.\.10"),
        ({"y": "four"}, "4 images and 1 labels"),
    ],
)
def test_a_file_with_something_else_in_it_is_named(tmp_path, change, said):
    savemat(tmp_path / "test_32x32.mat", GOOD)
    path = tmp_path / "train_32x32.mat"
    savemat(path, GOOD | change)
    with pytest.raises(CorruptData, match=said) as error:
        SVHN(root=tmp_path).setup()
    assert str(path) in str(error.value)


def test_a_file_without_labels_is_named(tmp_path):
    savemat(tmp_path / "train_32x32.mat", {"X": GOOD["X"]})
    with pytest.raises(CorruptData, match="no variable y"):
        SVHN(root=tmp_path).setup()


@pytest.mark.parametrize("damage", [lambda c: c[:500], lambda c: b"<html>404</html>" * 20, lambda c: b""])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "train_32x32.mat"
    savemat(path, GOOD, do_compression=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptData, match=f"{path} is no whole MATLAB file"):
        SVHN(root=tmp_path).setup()


def test_neither_files_nor_network(tmp_path, monkeypatch):
    monkeypatch.setattr(svhn, "URL", "http://127.0.0.1:9/")
    with pytest.raises(MissingData, match=f"{tmp_path}/SVHN/train_32x32.mat"):
        SVHN(root=tmp_path).setup()
