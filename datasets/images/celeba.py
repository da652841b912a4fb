"""CelebA (Liu et al., ICCV 2015) from its official files, packed once into memory-mapped arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.checks import check_positive
from datasets.download import CorruptData, alone_at, cache_folder, missing
from datasets.files import atomic_write
from datasets.images.base import ImageDataModule
from datasets.images.generative import read_centre
from datasets.images.loader import ImageSet
from datasets.images.parts import limited
from datasets.progress import track

PARTS = {"train": 0, "val": 1, "test": 2}  # numbers of the partition file
FOLDER, PARTITION = "celeba/img_align_celeba", "celeba/list_eval_partition.txt"
URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
CHUNK = 1000  # images between two notes of how far packing is


class CelebA(ImageDataModule):
    """Photographs of faces, RGB, (size, size); yields what `ImageDataModule` says, with label 0 throughout.

    Official files below the data folder: celeba/img_align_celeba/*.jpg (178 x 218 pixels) and
    celeba/list_eval_partition.txt. The centre square of `crop` pixels is resized bilinearly, as in the official code.
    The resized images are packed once into one array a part, which is memory-mapped: 2 GB for the training part at
    64 x 64. Packing goes on where it was interrupted. Non-commercial research only.

    Args:
        size: side of the resized images.
        crop: side of the centre square that is kept of each photograph.
        **kwargs: arguments of `ImageDataModule`. `holdout`, `meta`, `imbalance` and `noise` have no meaning here.
    """

    task = "image-generation"
    fid_part = "val"  # reference of the published FID

    def __init__(self, size: int = 64, crop: int = 148, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("dataset", size=size, crop=crop)
        self.size, self.crop = size, crop

    def setup(self, stage: str | None = None) -> None:
        """Pack the images where that is not done yet, and map them."""
        if self.parts:
            return
        packed = {name: self.packed_path(name) for name in PARTS}
        if not all(path.exists() for path in packed.values()):
            self.pack(packed)
        self.classes = ["face"]
        images = {name: torch.from_numpy(np.load(path, mmap_mode="c")) for name, path in packed.items()}
        self._check_counts({name: len(part) for name, part in images.items()})
        channels = next(iter(images.values())).shape[1]
        self.mean, self.std = self.mean or [0.5] * channels, self.std or [0.5] * channels  # the networks use [-1, 1]
        self.parts = {name: _faces(self._limited(name, part)) for name, part in images.items()}

    def read_picture(self, path: Path) -> Tensor:
        """Read an image file as the training images are, its centre: (C, H, W) uint8."""
        return read_centre(path, self.size, self.crop)

    def packed_path(self, part: str) -> Path:
        """Return the path of the packed images of a part."""
        return cache_folder(self.root, "celeba") / f"packed_{part}_{self.crop}_{self.size}.npy"

    def pack(self, packed: dict[str, Path]) -> None:
        """Write the packed images of all parts.

        Raises:
            MissingData: a file or the folder of images is not there.
            CorruptData: the partition file or an image cannot be read.
        """
        folder, partition = self.root / FOLDER, self.root / PARTITION
        if not folder.is_dir() or not partition.is_file():
            raise missing("CelebA", [folder / "000001.jpg", partition], URL, self.root)
        files = read_partition(partition)
        for name, path in packed.items():
            pack_images([folder / file for file in files[name]], path, self.size, self.crop)

    def _check_counts(self, counts: dict[str, int]) -> None:
        if wrong := {name: counts[name] for name, count in self.expect.items() if counts.get(name) != count}:
            raise CorruptData(
                f"this copy of CelebA has {wrong} images, expected {self.expect}: it is incomplete. Complete it and "
                f"remove {self.packed_path('train').parent}/packed_*.npy, or change dataset.expect"
            )

    def _limited(self, part: str, images: Tensor) -> Tensor:
        """Return the images that the limit leaves; without one the mapped array itself, which is not read."""
        limit = {"train": self.limit_train, "test": self.limit_test}.get(part)
        if limit is None or limit >= len(images):
            return images
        return images[limited(len(images), limit, self.split_seed)]


def read_partition(path: Path) -> dict[str, list[str]]:
    """Return the file names of each part, in the order of the partition file.

    Raises:
        CorruptData: a line is not "<file> <0, 1 or 2>", or a part is empty.
    """
    names = {number: name for name, number in PARTS.items()}
    files: dict[str, list[str]] = {name: [] for name in PARTS}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        file, _, part = line.strip().partition(" ")
        if not part.strip().isdigit() or int(part) not in names or "/" in file:
            raise CorruptData(f"{path}, line {number}: expected '<file> <0, 1 or 2>', got {line!r}")
        files[names[int(part)]].append(file)
    if empty := [name for name, part in files.items() if not part]:
        raise CorruptData(f"{path} lists no images of the parts {', '.join(empty)}")
    return files


def pack_images(files: Sequence[Path], target: Path, size: int, crop: int) -> None:
    """Write the images (N, 3, size, size) uint8 to an npy file, which appears when it is complete.

    An interrupted call leaves `<target>.part` and a count beside it, from which the next one goes on.
    """
    with alone_at(target):
        if target.exists():
            return
        part, count = Path(f"{target}.part"), Path(f"{target}.count")
        shape = (len(files), 3, size, size)
        done = _packed(part, count, shape)
        array = np.lib.format.open_memmap(part, mode="r+" if done else "w+", dtype=np.uint8, shape=shape)
        for start in track(range(done, len(files), CHUNK), f"packed thousands of {target.stem}"):
            for i in range(start, min(start + CHUNK, len(files))):
                array[i] = read_centre(files[i], size, crop).numpy()
            array.flush()
            with atomic_write(count) as temporary:
                temporary.write_text(str(min(start + CHUNK, len(files))))
        del array
        os.replace(part, target)
        count.unlink()


def _packed(part: Path, count: Path, shape: tuple[int, ...]) -> int:
    """Return how many images an interrupted call has packed; 0 if it packed other files than these."""
    if not part.exists() or not count.exists():
        return 0
    same = np.load(part, mmap_mode="r").shape == shape
    return int(count.read_text()) if same else 0


def _faces(images: Tensor) -> ImageSet:
    return ImageSet(images, torch.zeros(len(images), dtype=torch.long))
