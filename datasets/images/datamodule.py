"""DataModules of published image data sets, of image folders, and of the embedded digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from datasets.checks import check_choice, check_positive
from datasets.download import missing
from datasets.images.base import ImageDataModule
from datasets.images.cifar import LAYOUTS, find_cifar, read_cifar
from datasets.images.digits import read_digits
from datasets.images.folder import find_tiny_imagenet, read_folder, read_tiny_imagenet
from datasets.images.idx import find_idx, read_idx_set
from datasets.images.loader import ImageSet
from datasets.images.noise import CIFAR10_CONFUSIONS, CIFAR100_COARSE
from datasets.images.svhn import find_svhn, read_svhn
from datasets.images.webnoise import (
    RED_LEVELS,
    read_center,
    read_clothing1m,
    read_mini_webvision,
    read_red_mini_imagenet,
)

DIGITS = [str(digit) for digit in range(10)]


class Digits(ImageDataModule):
    """DataModule of the embedded digits: 10 classes, grey, no files needed; it yields what `ImageDataModule` describes.

    Args:
        size: side of the images in pixels, at least 8, their original size.
        kwargs: arguments of `ImageDataModule`.
    """

    def __init__(self, size: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 8:
            raise ValueError(f"dataset.size must be at least 8, got {size}")
        self.size = size

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the digits."""
        return *read_digits(self.size), DIGITS


class MNIST(ImageDataModule):
    """DataModule of MNIST: handwritten digits, grey, 28 x 28; it yields what `ImageDataModule` describes."""

    folder = "MNIST"
    names: ClassVar[list[str]] = DIGITS
    url = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/"  # a mirror: the authors' own address does not answer any more
    )
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the idx files."""
        files = find_idx(self.root, self.folder, self.url, self.md5)
        return read_idx_set(files, "train"), read_idx_set(files, "test"), self.names


class FashionMNIST(MNIST):
    """DataModule of Fashion-MNIST: clothing, grey, 28 x 28; it yields what `ImageDataModule` describes."""

    folder = "FashionMNIST"
    names: ClassVar[list[str]] = [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ]
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }


class CIFAR(ImageDataModule):
    """DataModule of CIFAR-10 or CIFAR-100: photographs, RGB, 32 x 32; it yields what `ImageDataModule` describes.

    Args:
        variant: number of classes, 10 or 100 (the fine ones).
        kwargs: arguments of `ImageDataModule`.
    """

    def __init__(self, variant: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("dataset.variant", variant, tuple(LAYOUTS))
        self.layout = LAYOUTS[variant]
        if variant == 10:
            self.confusions = CIFAR10_CONFUSIONS
        else:
            self.coarse = CIFAR100_COARSE

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the pickles."""
        return read_cifar(find_cifar(self.root, self.layout), self.layout)


class SVHN(ImageDataModule):
    """DataModule of SVHN: cropped digits of house numbers, RGB, 32 x 32; it yields what `ImageDataModule` describes."""

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the MATLAB files."""
        train, test = (read_svhn(find_svhn(self.root, part)) for part in ("train", "test"))
        return train, test, DIGITS


class TinyImageNet(ImageDataModule):
    """DataModule of Tiny-ImageNet: 200 classes, RGB, 64 x 64; it yields what `ImageDataModule` describes.

    The test part is its validation part.
    """

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the images."""
        return read_tiny_imagenet(find_tiny_imagenet(self.root))


class ImageFolder(ImageDataModule):
    """DataModule of image files in one folder a class; it yields what `ImageDataModule` describes.

    Args:
        folder: path below the data folder, or absolute. It holds train/CLASS/*.png (.jpg, .pgm, ..., sub-folders too)
            and test/CLASS/*, or val if there is no test.
        size: side to which every image is resized, without keeping its proportions.
        channels: 3 for RGB, 1 for grey.
        kwargs: arguments of `ImageDataModule`.
    """

    def __init__(self, folder: str, size: int = 32, channels: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("dataset", size=size)
        check_choice("dataset.channels", channels, (1, 3))
        self.folder, self.size, self.channels = folder, size, channels

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the folder."""
        folder = self.root / self.folder
        if not (folder / "train").is_dir():
            wanted = [folder / "train" / "CLASS" / "IMAGE.png", folder / "test" / "CLASS" / "IMAGE.png"]
            raise missing(f"the image folder {self.folder}", wanted, None, self.root)
        return read_folder(folder, self.channels, self.size)


class RedMiniImageNet(ImageDataModule):
    """DataModule of Red Mini-ImageNet: 100 classes, RGB, 32 x 32; it yields what `ImageDataModule` describes.

    It is not known which labels are wrong: `noisy` marks those that `noise` has changed.

    Args:
        level: share of training images that are replaced by mislabelled ones from the web, one of `RED_LEVELS`.
        kwargs: arguments of `ImageDataModule`.
    """

    def __init__(self, level: float = 0.4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("dataset.level", level, RED_LEVELS)
        self.level = float(level)

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the lists and their images."""
        return read_red_mini_imagenet(self.root, self.level)


class CenterCrops(ImageDataModule):
    """Base class for photographs of any form: they are resized, and their centre is cut out.

    Args:
        size: side of the centre in pixels.
        resize: shorter side of the resized image in pixels, at least `size`.
        kwargs: arguments of `ImageDataModule`.
    """

    def __init__(self, size: int, resize: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < size <= resize:
            raise ValueError(f"dataset.size must be positive and at most dataset.resize, got {size} and {resize}")
        self.size, self.resize = size, resize

    def read_picture(self, path: Path) -> Tensor:
        """Read an image file as the training images are: its centre, (3, size, size) uint8."""
        return read_center(path, self.size, self.resize)


class MiniWebVision(CenterCrops):
    """DataModule of the first 50 classes of WebVision 1.0's Google images, RGB.

    It yields what `ImageDataModule` describes and takes the arguments of `CenterCrops`. It is not known which labels
    are wrong. The test part is its validation part.
    """

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the lists and their images."""
        return read_mini_webvision(self.root, self.size, self.resize)


class Clothing1M(CenterCrops):
    """DataModule of Clothing1M: photographs of 14 kinds of clothes from shops, RGB.

    It yields what `ImageDataModule` describes. It is not known which training labels are wrong. The test part is the
    clean one.

    Args:
        per_class: number of training images of each class, drawn by `split_seed`; None: all.
        kwargs: arguments of `CenterCrops`.
    """

    def __init__(self, per_class: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("dataset", per_class=per_class)
        self.per_class = per_class

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        """Read the lists and their images."""
        return read_clothing1m(self.root, self.size, self.resize, self.per_class, self.split_seed)
