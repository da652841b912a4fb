"""What all image DataModules do: parts, limits, loaders, errors; the choices of conf/; the real data."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datasets.download import CorruptData
from datasets.images.datamodule import Digits, ImageDataModule
from datasets.images.loader import ImageSet
from runner.compose import CONF


class Toy(ImageDataModule):
    """40 training images and 12 test images of 2 x 4 x 4, 4 classes; each is filled with its number."""

    train, test = 40, 12

    def read(self):
        parts = []
        for count in (self.train, self.test):
            number = torch.arange(count)
            images = number.byte().view(-1, 1, 1, 1).expand(-1, 2, 4, 4).contiguous()
            parts.append(ImageSet(images, number % 4))
        return *parts, list("abcd")


def numbers(part: ImageSet) -> list[int]:
    return part.images[:, 0, 0, 0].tolist()


def made(**options) -> Toy:
    data = Toy(**options)
    data.setup()
    return data


def test_without_holdout_or_limits_the_parts_are_as_read():
    data = made()
    assert {name: numbers(part) for name, part in data.parts.items()} == {
        "train": list(range(40)),
        "test": list(range(12)),
    }
    assert data.val_dataloader() == []
    assert data.val_parts == []
    assert data.classes == ["a", "b", "c", "d"]


def test_holdout_is_drawn_by_split_seed_alone():
    data, same, other = made(holdout=9), made(holdout=9, seed=3), made(holdout=9, split_seed=1)
    train, val = numbers(data.parts["train"]), numbers(data.parts["val"])
    assert len(val) == 9
    assert sorted(train + val) == list(range(40))
    assert train == sorted(train)
    assert val == sorted(val)
    assert numbers(same.parts["val"]) == val
    assert numbers(other.parts["val"]) != val
    assert numbers(data.parts["test"]) == list(range(12))
    assert all([i % 4 for i in numbers(part)] == part.labels.tolist() for part in data.parts.values())


def test_limits_grow_by_adding():
    small, large = made(limit_train=5, limit_test=3), made(limit_train=20, limit_test=100)
    for name, count in {"train": 5, "test": 3}.items():
        assert len(small.parts[name].labels) == count
        assert set(numbers(small.parts[name])) < set(numbers(large.parts[name]))
    assert numbers(large.parts["test"]) == list(range(12))
    held = made(limit_train=20, holdout=9)
    assert numbers(held.parts["val"]) == numbers(made(holdout=9).parts["val"])
    assert not set(numbers(held.parts["val"])) & set(numbers(held.parts["train"]))


def test_loaders():
    data = made(batch_size=16, eval_batch_size=7, holdout=9, evaluate_train=True, augment={"crop": 1, "flip": True})
    train, (val, again), test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert data.val_parts == ["val", "train"]
    assert [len(batch.y) for batch in train] == [16, 15]
    assert [len(batch.y) for batch in val] == [7, 2]
    assert [len(batch.y) for batch in test] == [7, 5]
    for loader, part in {val: "val", again: "train", test: "test"}.items():  # as they are, in order
        x = torch.cat([batch.x for batch in loader])
        assert torch.equal(x, data.parts[part].images.float() / 255)
    index = torch.cat([batch.index for batch in train])
    assert index.sort().values.tolist() == list(range(31))
    assert index.tolist() != list(range(31))
    x = torch.cat([batch.x for batch in train])
    assert (x == 0).any(dim=(1, 2, 3)).sum() > 20  # cropped
    assert [len(batch.y) for batch in made(batch_size=16, drop_last=True).train_dataloader()] == [16, 16]


def test_a_method_may_replace_the_labels():
    data = made()
    data.parts["train"] = data.parts["train"]._replace(labels=torch.full((40,), 3))
    data.setup("fit")  # Lightning's second call reads nothing anew
    assert data.train_labels.unique().tolist() == [3]
    assert {int(label) for batch in data.train_dataloader() for label in batch.y} == {3}


def test_mean_and_std_are_of_the_whole_training_part_unless_given():
    pixels = torch.arange(40).double() / 255
    for data in (made(), made(limit_train=3, holdout=5)):
        assert data.dims == {
            "in_channels": 2,
            "num_classes": 4,
            "image_size": 4,
            "mean": [round(pixels.mean().item(), 4)] * 2,
            "std": [round(pixels.std(correction=0).item(), 4)] * 2,
        }
    given = made(mean=OmegaConf.create([0.0, 0.1]), std=OmegaConf.create([1.0, 2.0])).dims
    assert (given["mean"], given["std"]) == ([0.0, 0.1], [1.0, 2.0])
    assert type(given["mean"]) is list


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, r"dataset\.batch_size must be positive, got 0"),
        ({"eval_batch_size": -1}, r"dataset\.eval_batch_size must be positive"),
        ({"limit_train": 0}, r"dataset\.limit_train must be positive"),
        ({"limit_test": 0}, r"dataset\.limit_test must be positive"),
        ({"holdout": -1}, r"dataset\.holdout must not be negative"),
        ({"holdout": 40}, r"dataset\.holdout=40 leaves none of the 40 training images"),
        ({"mean": [0.5]}, r"dataset\.mean has 1 numbers, the images have 2 channels"),
        ({"std": [0.5, 0.0]}, r"dataset\.std must be positive"),
        ({"augment": {"crop": -1}}, r"dataset\.augment\.crop"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        made(**options)


def test_a_copy_of_another_size_is_refused():
    with pytest.raises(CorruptData, match=r"'train': 40\} images, expected \{'train': 50, 'test': 12\}"):
        made(expect={"train": 50, "test": 12})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": torch.arange(12)}, r"test part has labels from 0 to 11, expected 0\.\.3"),
        ({"labels": torch.arange(12) % 4 - 1}, "labels from -1 to 2"),
        ({"images": torch.zeros(12, 2, 5, 5, dtype=torch.uint8)}, r"\(2, 5, 5\)"),
        ({"images": torch.zeros(0, 2, 4, 4), "labels": torch.zeros(0)}, "test part has no images"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(change, said):
    class Odd(Toy):
        def read(self):
            train, test, classes = super().read()
            return train, test._replace(**change), classes

    with pytest.raises(CorruptData, match=said):
        Odd().setup()


class Recorder(pl.LightningModule):
    """Writes down what it is given; classifies by one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2 * 16, 4)
        self.seen: list[tuple[str, int, list[int]]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(("train", self.current_epoch, batch.index.tolist()))
        return torch.nn.functional.cross_entropy(self.layer(batch.x.flatten(1)), batch.y)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen.append((self.trainer.datamodule.val_parts[dataloader_idx], self.current_epoch, batch.index.tolist()))

    def test_step(self, batch, batch_idx):
        self.seen.append(("test", 0, batch.index.tolist()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("options", "watched"), [({}, set()), ({"holdout": 8, "evaluate_train": True}, {"val"})])
def test_lightning_trains_on_it_and_says_which_epoch_it_is(options, watched):
    data, module = Toy(batch_size=16, **options), Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert {name for name, _, _ in module.seen} == {"train", "test"} | watched
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        expected = [batch.index.tolist() for batch in loader]
        found = [index for name, e, index in module.seen if (name, e) == ("train", epoch) and len(index) <= 16]
        assert found[: len(expected)] == expected


CHOICES = ["cifar10", "cifar100", "digits", "fashion", "image_folder", "mnist", "svhn", "tinyimagenet"]


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
