"""Images whose labels are wrong as the web has them: Red Mini-ImageNet, mini-WebVision, Clothing1M, read from lists."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datasets.download import CorruptData, first_existing, missing
from datasets.images.folder import read_files, read_image, read_lines
from datasets.images.loader import ImageSet
from datasets.images.longtail import subset_per_class

RED = "red_mini_imagenet_s32"
RED_LEVELS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
WEBVISION, CLOTHING = "webvision", "clothing1m"


def read_red_mini_imagenet(root: Path, level: float) -> tuple[ImageSet, ImageSet, list[str]]:
    """Train at a level of noise (of `RED_LEVELS`), test (the clean validation part), classes; RGB of 32 x 32.

    Lists are split/red_noise_nl_LEVEL and split/clean_validation, a line `IMAGE CLASS` an image; images are
    training_s32/red_noise_nl_LEVEL/CLASS/IMAGE and validation_s32/CLASS/IMAGE (Jiang et al. 2020, as FaMUS reads
    them). Raises MissingData, CorruptData.
    """
    folder, split = root / RED, f"red_noise_nl_{level}"
    places = {split: folder / "training_s32" / split, "clean_validation": folder / "validation_s32"}
    parts = []
    for name, place in places.items():
        lines = _pairs(_found("Red Mini-ImageNet", folder / "split" / name, root), 100)
        files = [(place / str(label) / image, label) for image, label in lines]
        parts.append(read_files(files, 3, 32, lambda path: read_image(path, 3, 32)))
    return *parts, _numbers(100)


def read_mini_webvision(
    root: Path, size: int, resize: int, num_classes: int = 50
) -> tuple[ImageSet, ImageSet, list[str]]:
    """Train (of Google's images) and test (the validation part) of WebVision 1.0's first classes; RGB, (size, size).

    Lists are info/train_filelist_google.txt and info/val_filelist.txt, a line `PATH CLASS` an image; images are PATH
    and val_images_256/PATH (Li et al. 2017). resize: as `squared` has it. Raises MissingData, CorruptData.
    """
    folder = root / WEBVISION
    places = {"train_filelist_google.txt": folder, "val_filelist.txt": folder / "val_images_256"}
    parts = []
    for name, place in places.items():
        lines = _pairs(_found("WebVision 1.0", folder / "info" / name, root), None)
        files = [(place / image, label) for image, label in lines if label < num_classes]
        parts.append(read_files(files, 3, size, lambda path: squared(path, size, resize)))
    return *parts, _numbers(num_classes)


def read_clothing1m(
    root: Path, size: int, resize: int, per_class: int | None, seed: int
) -> tuple[ImageSet, ImageSet, list[str]]:
    """Train (noisy) and test (clean) of Clothing1M, 14 classes; RGB, (size, size).

    Lists are noisy_train_key_list.txt and clean_test_key_list.txt, a PATH a line, and noisy_label_kv.txt and
    clean_label_kv.txt, a line `PATH CLASS`; a PATH may begin with images/, which the folder may lack (Xiao et al.
    2015). per_class: so many training images of each class, drawn by `seed`; None: all, a million. resize: as `squared`
    has it. Raises MissingData, CorruptData.
    """
    folder = root / CLOTHING
    parts = []
    for kind, part in (("noisy", "train"), ("clean", "test")):
        keys, labels = (
            _found("Clothing1M", folder / f"{kind}_{name}.txt", root) for name in (f"{part}_key_list", "label_kv")
        )
        label_of = dict(_pairs(labels, 14))
        images = [line.strip() for line in read_lines(keys)]
        if unknown := [image for image in images if image not in label_of]:
            raise CorruptData(f"{keys}: {unknown[0]} has no label in {labels.name}")
        files = [(_placed(folder, image), label_of[image]) for image in images]
        if part == "train" and per_class is not None:
            files = _few_of_each(files, per_class, seed, keys)
        parts.append(read_files(files, 3, size, lambda path: squared(path, size, resize)))
    return *parts, _numbers(14)


def _placed(folder: Path, image: str) -> Path:
    path = folder / image
    return first_existing(path, folder / image.removeprefix("images/")) or path


def _few_of_each(files: list[tuple[Path, int]], count: int, seed: int, source: Path) -> list[tuple[Path, int]]:
    labels = torch.tensor([label for _, label in files])
    fewest = int(labels.bincount(minlength=14).min())
    if count > fewest:
        raise CorruptData(f"{source} has {fewest} images of its smallest class, dataset.per_class={count}")
    return [files[i] for i in subset_per_class(labels, [count] * 14, seed)]


def squared(path: Path, size: int, resize: int) -> Tensor:
    """(3, size, size) uint8: the middle of the image whose shorter side is made `resize` pixels, bilinearly.

    Raises CorruptData.
    """
    image = read_image(path, 3, None)
    height, width = image.shape[1:]
    side = max(1, round(min(height, width) * size / resize))
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[None, :, top : top + side, left : left + side].float()
    return interpolate(middle, (size, size), mode="bilinear", antialias=True)[0].round().byte()


def _found(what: str, path: Path, root: Path) -> Path:
    if not path.is_file():
        raise missing(what, [path], None, root)
    return path


def _pairs(path: Path, num_classes: int | None) -> list[tuple[str, int]]:
    """Of each line the name and the class, which must be one of `num_classes`; None: any."""
    pairs = []
    for line in map(str.strip, read_lines(path)):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal() or (num_classes is not None and int(label) >= num_classes):
            classes = f" 0..{num_classes - 1}" if num_classes is not None else ""
            raise CorruptData(f"{path}: expected the name of an image and a class{classes}, got the line {line!r}")
        pairs.append((name.strip(), int(label)))
    return pairs


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]
