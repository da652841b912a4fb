"""What all image DataModules do: parts, limits, noise, loaders, errors."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from datasets.download import CorruptData, MissingData
from datasets.images.base import ImageDataModule
from datasets.images.loader import ImageSet
from datasets.images.noise import add_label_noise


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
        ({"meta": -1}, r"dataset\.meta must not be negative"),
        ({"meta": 10}, r"dataset\.meta=10 leaves none of the 10 training images of 'a'"),
        ({"meta": 11}, r"dataset\.meta=11 leaves none of the 10 training images of 'a'"),
        ({"imbalance": 0.5}, r"dataset\.imbalance must be at least 1"),
        ({"imbalance": 11}, r"dataset\.imbalance=11 leaves no training image of 'd': the smallest class has 10"),
        ({"noise_seed": -1}, r"dataset\.noise_seed must be a whole number"),
        ({"noise": {"kind": "symmetric", "rate": 1.5}}, r"dataset\.noise\.rate must be a number in \[0, 1\], got 1\.5"),
        (
            {"noise": {"kind": "odd", "rate": 0.5}},
            r"dataset\.noise\.kind=odd is unknown; choose from symmetric, .*hierarchical",
        ),
        ({"noise": {"kind": "symmetric"}}, r"dataset\.noise\.rate is missing"),
        ({"noise": {}}, r"dataset\.noise\.kind is missing"),
        ({"noise": {"kind": "asymmetric", "rate": 0.5}}, r"noise\.kind=asymmetric needs super-classes or"),
        ({"noise": 0.4}, r"dataset\.noise must have the keys kind, rate, got 0\.4"),
        ({"noise": {"kind": "flip", "rate": 0.4, "seed": 1}}, r"dataset\.noise\.seed is unknown"),
        ({"std": [0.5, float("nan")]}, r"dataset\.std must be positive"),
        ({"augment": {"crop": 4}}, r"dataset\.augment\.crop=4 must be smaller than the images, which have 4 pixels"),
        ({"augment": {"crops": 4}}, r"dataset\.augment\.crops is unknown; choose from crop, flip"),
        ({"augment": 4}, r"dataset\.augment must have the keys crop, flip, got 4"),
        ({"expect": {"val": 4}}, r"dataset\.expect\.val is unknown; choose from train, test"),
        ({"meta_from": "val"}, r"dataset\.meta_from=val is unknown; choose from train, test"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        made(**options)


def test_a_copy_of_another_size_is_refused():
    with pytest.raises(CorruptData, match=r"40\} images, expected \{'train': 50, 'test': 12\}.*dataset\.expect=null"):
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


NOISE = {"kind": "symmetric_exclusive", "rate": 0.5}


def test_noise_changes_the_labels_of_training_alone():
    data = made(holdout=9, noise=OmegaConf.create(NOISE))
    clean = made(holdout=9)
    train = data.parts["train"]
    assert torch.equal(train.images, clean.parts["train"].images)
    assert torch.equal(data.true_labels, clean.train_labels)
    assert torch.equal(train.labels, add_label_noise(clean.train_labels, **NOISE, num_classes=4, seed=0))
    assert torch.equal(data.noisy, train.labels != data.true_labels)
    assert 0 < data.noisy.sum() < 31
    for part in ("val", "test"):
        assert torch.equal(data.parts[part].labels, clean.parts[part].labels)
    assert torch.equal(clean.true_labels, clean.train_labels)
    assert not clean.noisy.any()
    assert data.dims == clean.dims
    (batch,) = made(noise=NOISE, batch_size=40).train_dataloader()
    assert torch.equal(batch.y, made(noise=NOISE).train_labels[batch.index])


def test_noise_follows_its_own_seed():
    first, same, other = made(noise=NOISE), made(noise=NOISE, seed=3, split_seed=3), made(noise=NOISE, noise_seed=1)
    assert torch.equal(first.train_labels, same.train_labels)
    assert not torch.equal(first.train_labels, other.train_labels)
    assert made(noise={"kind": "symmetric_exclusive", "rate": 1}).noisy.all()
    assert not made(noise={"kind": "symmetric", "rate": 0}).noisy.any()


def test_meta_may_come_from_the_test_part():
    data = made(meta=2, meta_from="test", noise=NOISE)
    meta, test = numbers(data.parts["meta"]), numbers(data.parts["test"])
    assert data.parts["meta"].labels.bincount().tolist() == [2] * 4
    assert sorted([*meta, *test]) == list(range(12))
    assert numbers(data.parts["train"]) == list(range(40))
    with pytest.raises(ValueError, match=r"dataset\.meta=3 leaves none of the 3 test images of 'a'"):
        made(meta=3, meta_from="test")


def test_meta_is_cut_off_first_and_stays_clean():
    data = made(holdout=4, meta=3, imbalance=2, noise=NOISE)
    meta, val, train = (numbers(data.parts[name]) for name in ("meta", "val", "train"))
    assert data.parts["meta"].labels.tolist() == [number % 4 for number in meta]
    assert data.parts["meta"].labels.bincount().tolist() == [3] * 4
    assert not set(meta) & set(train)
    assert not set(val) & {*meta, *train}
    assert numbers(made(holdout=4, meta=3).parts["meta"]) == meta
    assert numbers(made(holdout=4, meta=3, split_seed=1).parts["meta"]) != meta
    assert data.true_labels.tolist() == [number % 4 for number in train]
    assert "meta" not in made().parts
    assert "meta" not in data.val_parts


def test_a_long_tail():
    data = made(meta=2, imbalance=4)
    assert data.train_labels.bincount().tolist() == [8, 5, 3, 2]  # 8 times 1, 0.63, 0.40, 0.25
    assert len(data.parts["test"].labels) == 12
    assert data.dims == made().dims
    assert set(numbers(data.parts["train"])) < set(numbers(made(meta=2).parts["train"]))
    assert numbers(data.parts["train"]) == sorted(numbers(data.parts["train"]))


def test_a_limit_leaves_the_noise_as_it_is():
    whole, part = made(noise=NOISE), made(noise=NOISE, limit_train=15)
    kept = numbers(part.parts["train"])
    assert kept == numbers(made(limit_train=15).parts["train"])
    assert part.train_labels.tolist() == whole.train_labels[kept].tolist()
    assert part.true_labels.tolist() == whole.true_labels[kept].tolist()
    assert part.noisy.tolist() == whole.noisy[kept].tolist()


def test_noisy_labels_out_of_a_file(tmp_path):
    drawn = made(noise=NOISE, meta=2)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "a.json").write_text(str(drawn.train_labels.tolist()))
    for options in ({}, {"noise": {"kind": "flip", "rate": 0.1}}):
        read = made(meta=2, root=tmp_path, noise_file="noise/a.json", **options)
        assert torch.equal(read.train_labels, drawn.train_labels)
        assert torch.equal(read.noisy, drawn.noisy)
    with pytest.raises(CorruptData, match=r"dataset\.noise_file: .*a\.json has 32 labels, the training part has 40"):
        made(root=tmp_path, noise_file="noise/a.json")
    (tmp_path / "b.json").write_text(str([4] * 40))
    with pytest.raises(CorruptData, match=r"dataset\.noise_file: .*b\.json has the label 4, expected 0\.\.3"):
        made(root=tmp_path, noise_file="b.json")
    with pytest.raises(MissingData, match=r"c\.json"):
        made(root=tmp_path, noise_file="c.json")


def test_noise_needs_two_classes():
    class One(Toy):
        def read(self):
            train, test, _ = super().read()
            return *(part._replace(labels=torch.zeros_like(part.labels)) for part in (train, test)), ["a"]

    with pytest.raises(ValueError, match=r"dataset\.noise\.kind=symmetric_exclusive needs 2 classes or more"):
        One(noise=NOISE).setup()


def first_batches(data: ImageDataModule, epoch: int, count: int = 5) -> list[tuple[list[int], torch.Tensor]]:
    return [
        (batch.index.tolist(), batch.x) for batch, _ in zip(data.meta_batches(8, epoch), range(count), strict=False)
    ]


def test_meta_batches_follow_seed_and_epoch_alone():
    options = {"meta": 5, "augment": {"crop": 1, "flip": True}}
    data, resumed, other = made(**options), made(**options), made(**options, seed=1)
    before = first_batches(data, 0)
    third = first_batches(data, 3)
    assert [index for index, _ in third] == [index for index, _ in first_batches(resumed, 3)]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(third, first_batches(resumed, 3), strict=True))
    assert [index for index, _ in third] != [index for index, _ in before]
    assert [index for index, _ in third] != [index for index, _ in first_batches(other, 3)]
    assert all(len(index) == 8 for index, _ in before)
    assert not set(before[0][0]) & set(before[1][0])  # 2 batches of 8 are a turn through 20 images
    assert before[0][0] != before[2][0]
    assert len({i for index, _ in first_batches(data, 0, 40) for i in index}) == 20
    for batch, _ in zip(made(meta=5).meta_batches(8, 0), range(3), strict=False):
        assert torch.equal(batch.x, data.parts["meta"].images[batch.index].float() / 255)
        assert torch.equal(batch.y, data.parts["meta"].labels[batch.index])
    assert any((x[:, 0, 0, 0] == 0).any() for _, x in before)  # cropped


@pytest.mark.parametrize(("meta", "batch_size", "have"), [(0, 1, 0), (5, 21, 20), (5, 0, 20)])
def test_meta_batches_without_enough_images(meta, batch_size, have):
    with pytest.raises(
        ValueError, match=rf"meta batch of {batch_size} images cannot be cut out of {have}: dataset\.meta"
    ):
        made(meta=meta).meta_batches(batch_size, 0)


def test_chosen_batches_follow_seed_key_and_places_alone():
    options = {"augment": {"crop": 1, "flip": True}}
    data, resumed = made(**options), made(**options)
    places = torch.arange(0, len(data.train_labels), 3)

    def first(of: ImageDataModule, *key: int) -> list[torch.Tensor]:
        return [batch.x for batch, _ in zip(of.chosen_batches(places, 4, 2, key), range(9), strict=False)]

    ours = first(data, 3, 0)
    assert all(torch.equal(a, b) for a, b in zip(ours, first(resumed, 3, 0), strict=True))
    for other in (first(data, 3, 1), first(data, 4, 0), first(made(**options, seed=1), 3, 0)):
        assert not torch.equal(torch.stack(ours), torch.stack(other))
    seen = {
        i
        for batch, _ in zip(data.chosen_batches(places, 4, 1, (0,)), range(40), strict=False)
        for i in batch.index.tolist()
    }
    assert seen == set(places.tolist())
    with pytest.raises(ValueError, match="make no full batch"):
        data.chosen_batches(places[:3], 4, 1, (0,))


def test_a_part_that_was_replaced_is_what_loaders_yield():
    data = made()
    first = next(iter(data.plain_batches()))
    part = data.parts["train"]
    assert data.train_dataloader().images.images is data.plain_batches().images.images
    data.parts["train"] = part._replace(labels=(part.labels + 1) % 4)
    assert torch.equal(next(iter(data.plain_batches())).y, (first.y + 1) % 4)


def test_plain_batches_are_the_training_images_in_their_order():
    data = made(augment={"crop": 1, "flip": True}, eval_batch_size=7)
    x, y, index = (torch.cat(tensors) for tensors in zip(*data.plain_batches(), strict=True))
    assert index.tolist() == list(range(len(data.train_labels)))
    assert torch.equal(x, data.train_images.float() / 255)
    assert torch.equal(y, data.train_labels)


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
