"""Data sets with label noise from the web: Red Mini-ImageNet, mini-WebVision, Clothing1M, read from their lists."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datasets.download import CorruptData, first_existing, missing
from datasets.images.decode import read_image
from datasets.images.folder import read_files, read_lines
from datasets.images.loader import ImageSet
from datasets.images.longtail import subset_per_class

RED = "red_mini_imagenet_s32"
RED_LEVELS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
WEBVISION, CLOTHING = "webvision", "clothing1m"


def read_red_mini_imagenet(root: Path, level: float) -> tuple[ImageSet, ImageSet, list[str]]:
    """Read Red Mini-ImageNet: RGB of 32 x 32 pixels.

    Lists are split/red_noise_nl_LEVEL and split/clean_validation, with a line `IMAGE CLASS` for each image; images are
    training_s32/red_noise_nl_LEVEL/CLASS/IMAGE and validation_s32/CLASS/IMAGE (Jiang et al. 2020, as FaMUS reads
    them).

    Args:
        root: data folder.
        level: share of noisy labels, one of `RED_LEVELS`.

    Returns:
        Train, test (the clean validation part), names of the classes.

    Raises:
        MissingData: a list is missing.
        CorruptData: a list or an image is damaged.
    """
    folder, split = root / RED, f"red_noise_nl_{level}"
    places = {split: folder / "training_s32" / split, "clean_validation": folder / "validation_s32"}
    parts = []
    for name, place in places.items():
        lines = _pairs(_existing("Red Mini-ImageNet", folder / "split" / name, root), 100)
        files = [(place / str(label) / image, label) for image, label in lines]
        parts.append(read_files(files, 3, 32, lambda path: read_image(path, 3, 32)))
    return parts[0], parts[1], _class_numbers(100)


def read_mini_webvision(
    root: Path, size: int, resize: int, num_classes: int = 50
) -> tuple[ImageSet, ImageSet, list[str]]:
    """Read the first classes of WebVision 1.0, Google's images; RGB.

    Lists are info/train_filelist_google.txt and info/val_filelist.txt, with a line `PATH CLASS` for each image; images
    are PATH and val_images_256/PATH (Li et al. 2017).

    Args:
        root: data folder.
        size: side of the images.
        resize: as in `read_center`.
        num_classes: number of classes to read.

    Returns:
        Train, test (the validation part), names of the classes.

    Raises:
        MissingData: a list is missing.
        CorruptData: a list or an image is damaged.
    """
    folder = root / WEBVISION
    places = {"train_filelist_google.txt": folder, "val_filelist.txt": folder / "val_images_256"}
    parts = []
    for name, place in places.items():
        lines = _pairs(_existing("WebVision 1.0", folder / "info" / name, root), None)
        files = [(place / image, label) for image, label in lines if label < num_classes]
        parts.append(read_files(files, 3, size, lambda path: read_center(path, size, resize)))
    return parts[0], parts[1], _class_numbers(num_classes)


def read_clothing1m(
    root: Path, size: int, resize: int, per_class: int | None, seed: int
) -> tuple[ImageSet, ImageSet, list[str]]:
    """Read Clothing1M: 14 classes, RGB.

    Lists are noisy_train_key_list.txt and clean_test_key_list.txt, with one PATH per line, and noisy_label_kv.txt and
    clean_label_kv.txt, with lines `PATH CLASS`. A PATH may begin with images/, a folder that may be absent on disk
    (Xiao et al. 2015).

    Args:
        root: data folder.
        size: side of the images.
        resize: as in `read_center`.
        per_class: number of training images of each class; None: all, a million.
        seed: decides which training images are read.

    Returns:
        Train (noisy labels), test (clean labels), names of the classes.

    Raises:
        MissingData: a list is missing.
        CorruptData: a list or an image is damaged, or a class has too few images.
    """
    folder = root / CLOTHING
    parts = []
    for kind, part in (("noisy", "train"), ("clean", "test")):
        keys, labels = (
            _existing("Clothing1M", folder / f"{kind}_{name}.txt", root) for name in (f"{part}_key_list", "label_kv")
        )
        label_of = dict(_pairs(labels, 14))
        images = [line.strip() for line in read_lines(keys)]
        if unknown := [image for image in images if image not in label_of]:
            raise CorruptData(f"{keys}: {unknown[0]} has no label in {labels.name}")
        files = [(_image_path(folder, image), label_of[image]) for image in images]
        if part == "train" and per_class is not None:
            files = _draw_per_class(files, per_class, seed, keys)
        parts.append(read_files(files, 3, size, lambda path: read_center(path, size, resize)))
    return parts[0], parts[1], _class_numbers(14)


def _image_path(folder: Path, image: str) -> Path:
    path = folder / image
    return first_existing(path, folder / image.removeprefix("images/")) or path


def _draw_per_class(files: list[tuple[Path, int]], count: int, seed: int, source: Path) -> list[tuple[Path, int]]:
    labels = torch.tensor([label for _, label in files])
    fewest = int(labels.bincount(minlength=14).min())
    if count > fewest:
        raise CorruptData(f"{source} has {fewest} images of its smallest class, dataset.per_class={count}")
    return [files[i] for i in subset_per_class(labels, [count] * 14, seed)]


def read_center(path: Path, size: int, resize: int) -> Tensor:
    """Resize an image bilinearly so that its shorter side has `resize` pixels, and cut out the centre.

    Args:
        path: image file.
        size: side of the centre.
        resize: shorter side of the resized image.

    Returns:
        (3, size, size) uint8.

    Raises:
        CorruptData: the file cannot be read.
    """
    image = read_image(path, 3, None)
    height, width = image.shape[1:]
    side = max(1, round(min(height, width) * size / resize))
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[None, :, top : top + side, left : left + side].float()
    return interpolate(middle, (size, size), mode="bilinear", antialias=True)[0].round().byte()


def _existing(what: str, path: Path, root: Path) -> Path:
    if not path.is_file():
        raise missing(what, [path], None, root)
    return path


def _pairs(path: Path, num_classes: int | None) -> list[tuple[str, int]]:
    """Return the name and the class in each line. The class must be below `num_classes`, if that is given."""
    pairs = []
    for line in map(str.strip, read_lines(path)):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal() or (num_classes is not None and int(label) >= num_classes):
            classes = f" 0..{num_classes - 1}" if num_classes is not None else ""
            raise CorruptData(f"{path}: expected the name of an image and a class{classes}, got the line {line!r}")
        pairs.append((name.strip(), int(label)))
    return pairs


def _class_numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]
