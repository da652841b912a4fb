"""Single sets of images: the choices of conf/dataset, what CIFAR knows of its classes, the real data."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datasets.images.datamodule import CIFAR, Digits
from datasets.images.loader import ImageSet
from datasets.images.noise import CIFAR10_CONFUSIONS, CIFAR100_COARSE
from runner.config.place import CONF

CHOICES = [
    *("cifar10", "cifar100", "clothing1m", "cnwl", "digits", "fashion", "image_folder", "mini_webvision"),
    *("mnist", "svhn", "tinyimagenet"),
]


def chosen(name: str, **options):
    """The DataModule of a choice of conf/dataset."""
    common, own = (OmegaConf.load(CONF / "dataset" / f"{file}.yaml") for file in ("_images", name))
    assert own.pop("defaults") == ["_images"]
    return instantiate(OmegaConf.merge(common, own), **options)


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_can_be_made(name):
    data = chosen(name)
    assert data.task == "image-classification"
    assert (data.batch_size, data.eval_batch_size, data.holdout) == (128, 500, 0)


def test_digits_by_default():
    data = chosen("digits")
    data.setup()
    assert isinstance(data, Digits)
    assert data.dims["image_size"] == 16


@pytest.mark.parametrize(
    ("name", "place", "shape", "first"),
    [
        ("mnist", "MNIST", (1, 28, 28), [5, 0, 4, 1, 9]),
        ("fashion", "FashionMNIST", (1, 28, 28), [9, 0, 0, 3, 0]),
        ("cifar10", "cifar-10-batches-py", (3, 32, 32), [6, 9, 9, 4, 1]),
    ],
)
def test_the_real_data(runner_data, name, place, shape, first):
    if not (runner_data / place).is_dir():
        pytest.skip(f"{runner_data / place} is not there")
    published, computed = chosen(name, root=runner_data), chosen(name, root=runner_data, mean=None, std=None)
    published.setup()
    train, test = published.parts["train"], published.parts["test"]
    assert train.images.shape[1:] == test.images.shape[1:] == shape
    assert train.labels[:5].tolist() == first
    if name == "mnist":
        assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert test.labels[:4].tolist() == [7, 2, 1, 0]
    else:
        assert train.labels.bincount().tolist() == [len(train.labels) // 10] * 10
        assert test.labels.bincount().tolist() == [1000] * 10
    if name == "cifar10":
        assert published.classes[6] == "frog"
        assert train.images[0, :, 0, 0].tolist() == [59, 62, 63]
    computed.read = lambda: (train, test, published.classes)
    computed.setup()
    assert published.dims == computed.dims
    pixels = train.images[:, 0].double() / 255
    assert published.mean[0] == pytest.approx(pixels.mean().item(), abs=6e-5)
    assert published.std[0] == pytest.approx(pixels.std().item(), abs=6e-5)


def test_cifar_knows_which_classes_pass_for_others():
    assert (CIFAR(10).confusions, CIFAR(10).coarse) == (CIFAR10_CONFUSIONS, None)
    assert (CIFAR(100).confusions, CIFAR(100).coarse) == (None, CIFAR100_COARSE)

    class Toy10(CIFAR):
        def read(self):
            labels = torch.arange(200) % 10
            part = ImageSet(torch.zeros(200, 3, 32, 32, dtype=torch.uint8), labels)
            return part, part, [str(i) for i in range(10)]

    data = Toy10(10, noise={"kind": "asymmetric", "rate": 1.0})
    data.setup()
    assert data.train_labels.tolist() == [CIFAR10_CONFUSIONS.get(i % 10, i % 10) for i in range(200)]
