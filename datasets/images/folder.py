"""Images as files, one folder a class; and Tiny-ImageNet, which has its own way of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.download import CorruptData, check_sum, fetch, first_existing, missing, unzip
from datasets.images.loader import ImageSet

SUFFIXES = {".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
MODES = {1: "L", 3: "RGB"}

TINY = "tiny-imagenet-200"
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def read_image(path: Path, channels: int, size: int | None) -> Tensor:
    """(channels, H, W) uint8: grey or RGB, as the file has it or squeezed to (size, size) bilinearly.

    Raises CorruptData, which names the file.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert(MODES[channels])
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise CorruptData(f"{path} is no image that can be read: {error}") from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.view(*pixels.shape[:2], channels).permute(2, 0, 1)


def read_folder(folder: Path, channels: int, size: int) -> tuple[ImageSet, ImageSet, list[str]]:
    """Train, test, classes of folder/train/CLASS/* and folder/test/CLASS/* (or val where there is no test).

    Classes are the folders of train in alphabetical order. Raises CorruptData.
    """
    train, test = folder / "train", first_existing(folder / "test", folder / "val")
    if test is None:
        raise CorruptData(f"{folder} has no folder test or val beside train")
    classes = _folders(train)
    if len(classes) < 2:
        raise CorruptData(f"{train} must have a folder for each of two or more classes, has {classes or 'none'}")
    if unknown := sorted(set(_folders(test)) - set(classes)):
        raise CorruptData(f"{test} has classes that {train} has not: {', '.join(unknown)}")
    parts = []
    for part in (train, test):
        files = [(path, label) for label, name in enumerate(classes) for path in _images(part / name)]
        if empty := sorted(set(classes) - {path.parent.name for path, _ in files}) if part == train else []:
            raise CorruptData(f"{part} has no images of the classes {', '.join(empty)}")
        if not files:
            raise CorruptData(f"{part} has no images; these count: {' '.join(sorted(SUFFIXES))}")
        parts.append(read_files(files, channels, size, lambda path: read_image(path, channels, size)))
    return *parts, classes


def _folders(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def read_files(files: Sequence[tuple[Path, int]], channels: int, size: int, read: Callable[[Path], Tensor]) -> ImageSet:
    """Images, each read as (channels, size, size) uint8, and their labels."""
    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    for target, (path, _) in zip(images, files, strict=True):
        target.copy_(read(path))
    return ImageSet(images, torch.tensor([label for _, label in files], dtype=torch.long))


def find_tiny_imagenet(root: Path) -> Path:
    """root/tiny-imagenet-200, else unpacked from its archive below `root`, else downloaded.

    Raises MissingData, CorruptData.
    """
    folder, archive = root / TINY, root / f"{TINY}.zip"
    if not folder.exists():
        try:
            fetch(TINY_URL, archive, md5=TINY_MD5)
        except OSError as error:
            raise missing("Tiny-ImageNet", [folder / "wnids.txt", archive], TINY_URL, root, error) from error
        check_sum(archive, "md5", TINY_MD5)
        unzip(archive, folder, inner=TINY)
    return folder


def read_tiny_imagenet(folder: Path) -> tuple[ImageSet, ImageSet, list[str]]:
    """Train, test and the classes, numbered in the order of wnids.txt; RGB of 64 x 64.

    Its validation part is our test part, as in the literature: the labels of its test part are not published.
    Raises CorruptData.
    """
    wnids = read_lines(folder / "wnids.txt")
    if len(wnids) < 2 or len(set(wnids)) != len(wnids):
        raise CorruptData(f"{folder / 'wnids.txt'} must name two or more different classes, a line each")
    label = {wnid: i for i, wnid in enumerate(wnids)}
    train = [(path, i) for wnid, i in label.items() for path in _images(folder / "train" / wnid / "images")]
    annotations = folder / "val" / "val_annotations.txt"
    test = []
    for line in read_lines(annotations):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label:
            raise CorruptData(f"{annotations}: no class of wnids.txt in the line {line!r}")
        test.append((folder / "val" / "images" / name, label[wnid]))
    for place, files in {folder / "train": train, annotations: test}.items():
        if not files:
            raise CorruptData(f"{place} has no images")
    meaning = dict(line.split("\t", 1) for line in read_lines(folder / "words.txt") if "\t" in line)
    return (
        read_files(train, 3, 64, _read_tiny),
        read_files(test, 3, 64, _read_tiny),
        [meaning.get(wnid, wnid) for wnid in wnids],
    )


def _read_tiny(path: Path) -> Tensor:
    image = read_image(path, 3, None)
    if image.shape != (3, 64, 64):
        raise CorruptData(f"{path} is {image.shape[2]} x {image.shape[1]} pixels, expected 64 x 64")
    return image


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not empty. Raises CorruptData."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise CorruptData(f"{path} is missing or no text: {error}") from error
