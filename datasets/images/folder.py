"""Image files in one folder a class, and Tiny-ImageNet, which has its own layout."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datasets.download import CorruptData, check_sum, fetch, first_existing, missing, unzip
from datasets.images.decode import forget_warnings, read_image
from datasets.images.loader import ImageSet

log = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
SYSTEM_NAMES = {
    "__MACOSX",
    "@eaDir",
    "Thumbs.db",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Desktop.ini",
    "$RECYCLE.BIN",
}

TINY = "tiny-imagenet-200"
TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def read_folder(folder: Path, channels: int, size: int) -> tuple[ImageSet, ImageSet, list[str]]:
    """Read images from folder/train/CLASS/ and folder/test/CLASS/, or val if there is no test.

    Classes are the folders of train in alphabetical order. Images in sub-folders of a class belong to the class.
    Hidden files and folders and those of operating systems (`._0.png`, `.ipynb_checkpoints`, `__MACOSX`) are left out,
    as are files that are no images; a log line says how many.

    Args:
        folder: folder of the parts.
        channels: 1 for grey, 3 for RGB.
        size: side to which every image is resized.

    Returns:
        Train, test, names of the classes.

    Raises:
        CorruptData: there are fewer than two classes, a class without training images, a class that occurs in test
            alone, or an image that cannot be read.
    """
    train, test = folder / "train", first_existing(folder / "test", folder / "val")
    if test is None:
        raise CorruptData(f"{folder} has no folder test or val beside train")
    if test.name == "test" and (folder / "val").exists():
        log.warning(
            "%s is not read: test is the test part, and dataset.holdout makes a validation part", folder / "val"
        )
    classes = _class_names(train)
    if len(classes) < 2:
        raise CorruptData(f"{train} must have a folder for each of two or more classes, has {classes or 'none'}")
    if unknown := sorted(set(_class_names(test)) - set(classes)):
        raise CorruptData(f"{test} has classes that {train} has not: {', '.join(unknown)}")
    return (
        _read_part(train, classes, channels, size, every_class=True),
        _read_part(test, classes, channels, size, every_class=False),
        classes,
    )


def _read_part(part: Path, classes: list[str], channels: int, size: int, every_class: bool) -> ImageSet:
    files = [(path, label) for label, name in enumerate(classes) for path in image_files(part / name)]
    _warn_of_loose_images(part)
    if not files:
        raise CorruptData(f"{part} has no images; these count: {' '.join(sorted(SUFFIXES))}")
    labels = {label for _, label in files}
    if empty := [name for label, name in enumerate(classes) if label not in labels]:
        if every_class:
            raise CorruptData(f"{part} has no images of the classes {', '.join(empty)}")
        log.warning("%s has no images of the classes %s", part, ", ".join(empty))
    return read_files(files, channels, size, lambda path: read_image(path, channels, size))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to an operating system."""
    return name.startswith(".") or name in SYSTEM_NAMES


def _class_names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and not is_hidden(path.name))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _warn_of_loose_images(part: Path) -> None:
    loose = sorted(path.name for path in part.iterdir() if _is_image(path.name) and not is_hidden(path.name))
    if loose := [name for name in loose if (part / name).is_file()]:
        log.warning("%s: %d images in no class folder are left out, such as %s", part, len(loose), loose[0])


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder and of its sub-folders, links followed, in order; log what is left out.

    Hidden files and folders are left out, and files that are no images by their suffix.
    """
    images: list[Path] = []
    ignored: Counter[str] = Counter()
    if not folder.is_dir():
        return images
    for parent, names in _walk(folder, ignored):
        for name in names:
            if is_hidden(name):
                ignored["hidden files or folders"] += 1
            elif _is_image(name):
                images.append(parent / name)
            else:
                ignored[f"files {Path(name).suffix or 'without a suffix'}"] += 1
    if left_out := [f"{count} {what}" for what, count in sorted(ignored.items()) if count]:
        log.info("%s: left out %s", folder, ", ".join(left_out))
    return sorted(images)


def _walk(folder: Path, ignored: Counter[str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder and its files, links followed but each folder entered once; count hidden folders."""

    def fail(error: OSError) -> None:
        raise error

    entered: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        if (real := os.path.realpath(parent)) in entered:
            ignored["links to folders that are read already"] += 1
            folders.clear()
            continue
        entered.add(real)
        ignored["hidden files or folders"] += sum(map(is_hidden, folders))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield Path(parent), names


def read_files(files: Sequence[tuple[Path, int]], channels: int, size: int, read: Callable[[Path], Tensor]) -> ImageSet:
    """Read images into one tensor.

    Args:
        files: path and label of each image.
        channels: channels of the images.
        size: side of the images.
        read: function that reads a path as (channels, size, size) uint8.
    """
    forget_warnings()
    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    for target, (path, _) in zip(images, files, strict=True):
        target.copy_(read(path))
    return ImageSet(images, torch.tensor([label for _, label in files], dtype=torch.long))


def find_tiny_imagenet(root: Path) -> Path:
    """Return the folder of Tiny-ImageNet: on disk, else unpacked from its archive, else downloaded.

    Args:
        root: data folder.

    Raises:
        MissingData: neither folder nor archive exist, and the download fails.
        CorruptData: the archive is damaged.
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
    """Read Tiny-ImageNet: RGB of 64 x 64 pixels, classes numbered in the order of wnids.txt.

    Its validation part is the test part here, as in the literature: the labels of its test part are not published.

    Args:
        folder: folder of wnids.txt.

    Returns:
        Train, test, names of the classes.

    Raises:
        CorruptData: a list or an image is missing or damaged.
    """
    wnids = read_lines(folder / "wnids.txt")
    if len(wnids) < 2 or len(set(wnids)) != len(wnids):
        raise CorruptData(f"{folder / 'wnids.txt'} must name two or more different classes, a line each")
    label = {wnid: i for i, wnid in enumerate(wnids)}
    train = [(path, i) for wnid, i in label.items() for path in image_files(folder / "train" / wnid / "images")]
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
    """Return the lines of a text file that are not empty. Raises CorruptData if it is missing or no text."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise CorruptData(f"{path} is missing or no text: {error}") from error
