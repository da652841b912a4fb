"""DataModules of published sets of labelled images, of one's own, and of the embedded digits."""

from __future__ import annotations

from typing import Any, ClassVar

from datasets.download import missing
from datasets.images.base import ImageDataModule
from datasets.images.cifar import LAYOUTS, find_cifar, read_cifar
from datasets.images.digits import read_digits
from datasets.images.folder import find_tiny_imagenet, read_folder, read_tiny_imagenet
from datasets.images.idx import find_idx, read_idx_set
from datasets.images.loader import ImageSet
from datasets.images.noise import CIFAR10_CONFUSIONS, CIFAR100_COARSE
from datasets.images.svhn import find_svhn, read_svhn
from datasets.images.webnoise import RED_LEVELS, read_clothing1m, read_mini_webvision, read_red_mini_imagenet

DIGITS = [str(digit) for digit in range(10)]


class Digits(ImageDataModule):
    """The embedded digits: 10 classes, grey, (size, size); yields what `ImageDataModule` says; needs no files.

    Args:
        size: pixels a side, at least the 8 that they come with.
    """

    def __init__(self, size: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 8:
            raise ValueError(f"dataset.size must be at least 8, got {size}")
        self.size = size

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        return *read_digits(self.size), DIGITS


class MNIST(ImageDataModule):
    """Handwritten digits, grey, 28 x 28; yields what `ImageDataModule` says."""

    folder = "MNIST"
    names = DIGITS
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # the authors' own address answers no more
    md5: ClassVar = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        files = find_idx(self.root, self.folder, self.url, self.md5)
        return read_idx_set(files, "train"), read_idx_set(files, "test"), self.names


class FashionMNIST(MNIST):
    """Articles of clothing, grey, 28 x 28; yields what `ImageDataModule` says."""

    folder = "FashionMNIST"
    names: ClassVar = [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ]
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    md5: ClassVar = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }


class CIFAR(ImageDataModule):
    """Small photographs, RGB, 32 x 32; yields what `ImageDataModule` says.

    Args:
        variant: 10 or 100 classes (the fine ones).
    """

    def __init__(self, variant: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if variant not in LAYOUTS:
            raise ValueError(f"dataset.variant must be 10 or 100, got {variant}")
        self.layout = LAYOUTS[variant]
        if variant == 10:
            self.confusions = CIFAR10_CONFUSIONS
        else:
            self.coarse = CIFAR100_COARSE

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        return read_cifar(find_cifar(self.root, self.layout), self.layout)


class SVHN(ImageDataModule):
    """House numbers, cropped to a digit, RGB, 32 x 32; yields what `ImageDataModule` says."""

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        train, test = (read_svhn(find_svhn(self.root, part)) for part in ("train", "test"))
        return train, test, DIGITS


class TinyImageNet(ImageDataModule):
    """200 classes of ImageNet, RGB, 64 x 64; yields what `ImageDataModule` says. Test is its validation part."""

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        return read_tiny_imagenet(find_tiny_imagenet(self.root))


class ImageFolder(ImageDataModule):
    """Image files of one's own, a folder a class; yields what `ImageDataModule` says.

    Args:
        folder: below the data folder, or absolute; holds train/CLASS/*.png (.jpg, .pgm, ...) and test/CLASS/*, or val
            where there is no test.
        size: every image is squeezed to (size, size). channels: 3 (RGB) or 1 (grey).
    """

    def __init__(self, folder: str, size: int = 32, channels: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"dataset.size must be positive, got {size}")
        if channels not in (1, 3):
            raise ValueError(f"dataset.channels must be 1 or 3, got {channels}")
        self.folder, self.size, self.channels = folder, size, channels

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        folder = self.root / self.folder
        if not (folder / "train").is_dir():
            wanted = [folder / "train" / "CLASS" / "IMAGE.png", folder / "test" / "CLASS" / "IMAGE.png"]
            raise missing(f"the image folder {self.folder}", wanted, None, self.root)
        return read_folder(folder, self.channels, self.size)


class RedMiniImageNet(ImageDataModule):
    """100 classes of ImageNet with wrong images of the web, RGB, 32 x 32; yields what `ImageDataModule` says.

    Which of the labels are wrong is not known: `noisy` is where `noise` has changed them.

    Args:
        level: share of the training images that the web's wrong ones replace, of `RED_LEVELS`.
    """

    def __init__(self, level: float = 0.4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if level not in RED_LEVELS:
            raise ValueError(f"dataset.level must be one of {', '.join(map(str, RED_LEVELS))}; got {level}")
        self.level = float(level)

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        return read_red_mini_imagenet(self.root, self.level)


class _Squared(ImageDataModule):
    """Photographs of any form, of which the middle is kept.

    Args:
        size: pixels a side. resize: of the shorter side of the image that this is the middle of, at least `size`.
    """

    def __init__(self, size: int, resize: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < size <= resize:
            raise ValueError(f"dataset.size must be positive and at most dataset.resize, got {size} and {resize}")
        self.size, self.resize = size, resize


class MiniWebVision(_Squared):
    """The first 50 classes of WebVision 1.0's Google images, RGB; yields what `ImageDataModule` says.

    Which labels are wrong is not known. Test is its validation part.

    Args:
        size: pixels a side. resize: of the shorter side of the image that this is the middle of, at least `size`.
    """

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        return read_mini_webvision(self.root, self.size, self.resize)


class Clothing1M(_Squared):
    """Photographs of 14 kinds of clothes out of shops, RGB; yields what `ImageDataModule` says. Test is the clean one.

    Which training labels are wrong is not known.

    Args:
        per_class: so many training images of each class, drawn by `split_seed`; None: all.
        size: pixels a side. resize: of the shorter side of the image that this is the middle of, at least `size`.
    """

    def __init__(self, per_class: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if per_class is not None and per_class < 1:
            raise ValueError(f"dataset.per_class must be positive, got {per_class}")
        self.per_class = per_class

    def read(self) -> tuple[ImageSet, ImageSet, list[str]]:
        return read_clothing1m(self.root, self.size, self.resize, self.per_class, self.split_seed)
