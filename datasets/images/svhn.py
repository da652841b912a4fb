"""Reader of the MATLAB files of SVHN (Netzer et al. 2011), the cropped digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from datasets.download import CorruptData, fetch, first_existing, missing
from datasets.images.loader import ImageSet

URL = "http://ufldl.stanford.edu/housenumbers/"
MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


def find_svhn(root: Path, part: str) -> Path:
    """Return the path of PART_32x32.mat below root/SVHN, root/svhn or root; it is downloaded if it is missing.

    Args:
        root: data folder.
        part: "train" or "test".

    Raises:
        MissingData: the file is missing, and its download fails.
        CorruptData: the downloaded file has another checksum.
    """
    name = f"{part}_32x32.mat"
    places = [root / "SVHN" / name, root / "svhn" / name, root / name]
    try:
        return first_existing(*places) or fetch(URL + name, places[0], md5=MD5[name])
    except OSError as error:
        raise missing(f"SVHN's {name}", places, URL + name, root, error) from error


def read_svhn(path: Path) -> ImageSet:
    """Read a part: X uint8 (32, 32, 3, N) and y (N, 1) in 1..10, where 10 stands for the digit 0.

    Raises:
        CorruptData: the file is damaged or has other content.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # a damaged file can raise nearly anything
        raise CorruptData(f"{path} is no whole MATLAB file: {error or type(error).__name__}") from error
    if lacking := {"X", "y"} - content.keys():
        raise CorruptData(f"{path} has no variable {' and no '.join(sorted(lacking))}")
    x, y = content["X"], content["y"].reshape(-1)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3):
        raise CorruptData(f"{path}: X must be uint8 (32, 32, 3, images), is {x.dtype} {x.shape}")
    if x.shape[3] != len(y):
        raise CorruptData(f"{path} has {x.shape[3]} images and {len(y)} labels")
    if y.dtype.kind not in "iuf" or not np.isin(y, np.arange(1, 11)).all():
        raise CorruptData(f"{path}: y must lie in 1..10")
    return ImageSet(torch.from_numpy(x.transpose(3, 2, 0, 1).copy()), torch.from_numpy(y.astype(np.int64) % 10))
