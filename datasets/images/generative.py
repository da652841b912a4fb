"""Sets of images prepared for generative models: MNIST and Fashion-MNIST at 32 x 32, folders of unlabelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.checks import check_positive
from datasets.download import CorruptData, missing
from datasets.images.base import ImageDataModule
from datasets.images.datamodule import MNIST, FashionMNIST
from datasets.images.decode import MODES, read_image
from datasets.images.folder import image_files
from datasets.images.loader import ImageSet


def resize(images: Tensor, size: int) -> Tensor:
    """Return images resized by PIL's bilinear filter and rounded to bytes, as torchvision's Resize does.

    Shapes:
        images (N, C, H, W) uint8 -> (N, C, size, size) uint8.
    """
    from PIL import Image

    if images.shape[-2:] == (size, size):
        return images
    result = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for image, target in zip(images.flatten(0, 1).contiguous().numpy(), result.flatten(0, 1), strict=True):
        target.copy_(torch.from_numpy(np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))))
    return result


class ResizedMNIST(MNIST):
    """Handwritten digits, grey, resized from 28 x 28 to (size, size); yields what `ImageDataModule` says.

    Args:
        size: side of the resized images.
    """

    def __init__(self, size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("dataset", size=size)
        self.size = size
        self.feature_set = "mnist_64" if size == 32 else None  # published feature autoencoder for such images

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Return the training and test images, resized, and the names of the classes."""
        return _resized(super().read(), self.size)


class ResizedFashionMNIST(FashionMNIST):
    """Articles of clothing, grey, resized from 28 x 28 to (size, size); yields what `ImageDataModule` says.

    Args:
        size: side of the resized images.
    """

    def __init__(self, size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("dataset", size=size)
        self.size = size
        self.feature_set = "fashion_64" if size == 32 else None

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Return the training and test images, resized, and the names of the classes."""
        return _resized(super().read(), self.size)


def _resized(content: tuple[ImageSet, ImageSet, list[str]], size: int) -> tuple[ImageSet, ImageSet, list[str]]:
    train, test, classes = content
    return train._replace(images=resize(train.images, size)), test._replace(images=resize(test.images, size)), classes


def read_centre(path: Path, size: int, crop: int | None = None, channels: int = 3) -> Tensor:
    """Return the centre of an image, resized by PIL's bilinear filter.

    Args:
        path: image file.
        size: side of the result.
        crop: side of the centre square; None: the shorter side of the image.
        channels: 3 for RGB, 1 for grey.

    Shapes:
        -> (channels, size, size) uint8.

    Raises:
        CorruptData: the file is no image, or smaller than the crop.
    """
    pixels = read_image(path, channels, None)
    height, width = pixels.shape[1:]
    side = crop or min(height, width)
    if min(height, width) < side:
        raise CorruptData(f"{path} has {width} x {height} pixels, too few for a crop of {side}")
    top, left = (round((length - side) / 2) for length in (height, width))
    return resize(pixels[None, :, top : top + side, left : left + side], size)[0]


class UnlabelledFolder(ImageDataModule):
    """Image files of any folder and its subfolders, the centre square resized; yields what `ImageDataModule` says.

    All labels are 0. Every `test_every`-th file, in alphabetical order of its path, is a test image.

    Args:
        folder: below the data folder, or absolute.
        size: side of the resized images.
        channels: 3 (RGB) or 1 (grey).
        test_every: distance of two test images in the list of files, at least 2.
    """

    task = "image-generation"

    def __init__(self, folder: str, size: int = 64, channels: int = 3, test_every: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("dataset", size=size)
        if channels not in MODES:
            raise ValueError(f"dataset.channels must be 1 or 3, got {channels}")
        if test_every < 2:
            raise ValueError(f"dataset.test_every must be at least 2, got {test_every}")
        self.folder, self.size, self.channels, self.test_every = folder, size, channels, test_every

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Return the training and test images and the only class."""
        folder = self.root / self.folder
        files = image_files(folder)
        if not files:
            raise missing(f"the image folder {self.folder}", [folder / "IMAGE.png"], None, self.root)
        if len(files) < self.test_every:
            raise CorruptData(f"{folder} has {len(files)} images, fewer than dataset.test_every={self.test_every}")
        images = torch.stack([self.read_picture(path) for path in files])
        is_test = torch.arange(len(files)) % self.test_every == self.test_every - 1
        return _unlabelled(images[~is_test]), _unlabelled(images[is_test]), ["image"]

    def read_picture(self, path: Path) -> Tensor:
        """Read an image file as the training images are, its centre: (C, H, W) uint8."""
        return read_centre(path, self.size, channels=self.channels)


def _unlabelled(images: Tensor) -> ImageSet:
    return ImageSet(images, torch.zeros(len(images), dtype=torch.long))
