"""Batches out of memory: values, order, shares of several processes."""

from __future__ import annotations

import pytest
import torch

from datasets.images.augment import Augment
from datasets.images.loader import ImageBatch, ImageLoader, ImageSet, StepNumbers


def images(count: int = 23, size: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(count) % 4)


def order(loader: ImageLoader, epoch: int) -> list[int]:
    loader.set_epoch(epoch)
    return [i for batch in loader for i in batch.index.tolist()]


def test_a_batch_is_what_it_says():
    part = images()
    batches = list(ImageLoader(part, 10))
    assert [len(batch.y) for batch in batches] == [10, 10, 3]
    assert len(ImageLoader(part, 10)) == 3
    x, y, index = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    assert isinstance(batches[0], ImageBatch)
    assert (x.dtype, y.dtype, index.dtype) == (torch.float32, torch.int64, torch.int64)
    assert torch.equal(index, torch.arange(23))
    assert torch.equal(y, part.labels)
    assert torch.equal((x.double() * 255).round().byte(), part.images)
    assert x.min() >= 0
    assert x.max() <= 1


@pytest.mark.parametrize("augment", [None, Augment(2, True)])
def test_a_shuffled_batch_keeps_images_labels_and_places_together(augment):
    part = images()
    for x, y, index in ImageLoader(part, 7, shuffle=True):
        assert torch.equal(part.labels[index], y)
        assert torch.equal(part.images[index].float() / 255, x)


def test_the_order_follows_seed_and_epoch_alone():
    ours, resumed = (ImageLoader(images(), 7, shuffle=True, seed=1) for _ in range(2))
    epochs = [order(ours, epoch) for epoch in range(4)]
    assert order(resumed, 3) == epochs[3]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert order(ImageLoader(images(), 7, shuffle=True, seed=2), 0) != epochs[0]
    assert order(ImageLoader(images(), 5, shuffle=True, seed=1), 0) == epochs[0]


def test_lightning_sets_the_epoch_after_it_has_made_the_iterator():
    loader = ImageLoader(images(), 7, shuffle=True)
    expected = order(loader, 2)
    loader.set_epoch(0)
    started = iter(loader)
    loader.set_epoch(2)
    assert [i for batch in started for i in batch.index.tolist()] == expected


def test_augmentation_follows_seed_epoch_and_batch():
    part = ImageSet(images(1).images.repeat(8, 1, 1, 1), torch.zeros(8, dtype=torch.long))
    ours, resumed, other = (ImageLoader(part, 4, augment=Augment(2, True), seed=seed) for seed in (0, 0, 1))
    first = [batch.x for batch in ours]
    ours.set_epoch(1)
    second = [batch.x for batch in ours]
    resumed.set_epoch(1)
    assert all(torch.equal(a, b.x) for a, b in zip(second, resumed, strict=True))
    different = [*first, *second, *(batch.x for batch in other)]  # same images, each time with another draw
    assert len({tuple(x.flatten().tolist()) for x in different}) == 6


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("count", [23, 21, 22, 20])
def test_the_shares_of_several_processes_are_the_batches_of_one(count, world_size):
    options = {"shuffle": True, "augment": Augment(2, True)}
    part = images(count)
    shares = [ImageLoader(part, 10, rank=r, world_size=world_size, **options) for r in range(world_size)]
    assert len({len(loader) for loader in shares}) == 1
    together = {}
    for batches in zip(*shares, strict=True):
        sizes = [len(batch.y) for batch in batches]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 1
        together |= {int(i): x for batch in batches for x, i in zip(batch.x, batch.index, strict=True)}
    alone = {int(i): x for batch in ImageLoader(part, 10, **options) for x, i in zip(batch.x, batch.index, strict=True)}
    assert together.keys() == alone.keys()
    if count % 10 == 0 or count % 10 >= world_size:
        assert all(torch.equal(together[i], alone[i]) for i in alone)


def test_drop_last():
    loader = ImageLoader(images(), 10, shuffle=True, drop_last=True)
    assert [len(batch.y) for batch in loader] == [10, 10]
    assert len(loader) == 2
    assert len(ImageLoader(images(20), 10, drop_last=True)) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [({"world_size": 4}, "too few for 4 processes"), ({"drop_last": True, "batch_size": 24}, "no full batch of 24")],
)
def test_too_few_images_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ImageLoader(images(), **{"batch_size": 3} | options)


def test_chosen_places_are_all_that_is_seen():
    part, places = images(), torch.tensor([4, 7, 8, 20, 22])
    loader = ImageLoader(part, 2, places=places, shuffle=True)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    index = torch.cat([batch.index for batch in batches])
    assert sorted(index.tolist()) == places.tolist()
    assert torch.equal(torch.cat([batch.y for batch in batches]), part.labels[index])
    with pytest.raises(ValueError, match="5 images make no full batch of 6"):
        ImageLoader(part, 6, places=places, drop_last=True)


@pytest.mark.parametrize("world_size", [1, 3])
def test_views_are_the_same_images_augmented_anew(world_size):
    part = images()
    for rank in range(world_size):
        options = {"shuffle": True, "augment": Augment(2, True), "rank": rank, "world_size": world_size}
        for once, twice in zip(ImageLoader(part, 7, **options), ImageLoader(part, 7, views=2, **options), strict=True):
            n = len(once.y)
            for first in (twice.index[:n], twice.index[n:]):
                assert torch.equal(first, once.index)
            assert torch.equal(twice.y, part.labels[twice.index])
            assert not torch.equal(twice.x[:n], twice.x[n:])


def test_turns_ask_how_many_they_are_at_the_second():
    said = [4]
    turns = iter(StepNumbers(lambda: said[0]))
    assert next(turns) == 0
    said[0] = 2
    assert list(turns) == [1]
    assert list(StepNumbers(lambda: 0)) == [0]
