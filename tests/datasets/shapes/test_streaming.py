"""Shapes that are read when they are needed, against the same shapes in memory."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
import pytest
import torch

from datasets.download import CorruptData, MissingData
from datasets.shapes import shapenet_format as fmt
from datasets.shapes.datamodules import StoredShapes
from datasets.shapes.streaming import AHEAD, StreamedShapes, TrainFromDisk, prefetch


def both(folder, **options) -> tuple[StoredShapes, StreamedShapes]:
    options = {"points": 32, "batch_size": 4, "surface_points": 16, "input_points": 20} | options
    found = StoredShapes(folder=str(folder), **options), StreamedShapes(folder=str(folder), **options)
    for data in found:
        data.setup()
    return found


def same(ours, whole) -> bool:
    return all(a is b is None or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in zip(ours, whole, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inputs": "voxels", "sampling": "equal", "stored_points": 200},
        {"inputs": "image", "views": 2, "image_size": 32, "image_crop": 0.75},
        {"inputs": "image", "image_size": 64, "workers": 3},
        {"inputs": "index", "train_as_test": True, "sampling": "surface"},
        {"inputs": "none", "iterations": 5, "batch_size": 9, "limit_train": 4},
    ],
)
def test_batches_are_those_of_the_set_in_memory(built, options):
    memory, disk = both(built, **options)
    assert disk.dims == memory.dims
    for part in ("train", "val", "test"):
        assert disk.names(part) == memory.names(part)
        assert disk.category_of(part) == memory.category_of(part)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        ours, whole = getattr(disk, name)(), getattr(memory, name)()
        for epoch in (0, 3):
            if name == "train_dataloader":
                ours.set_epoch(epoch)
                whole.set_epoch(epoch)
            found, expected = list(ours), list(whole)
            assert len(found) == len(expected) == len(ours) == len(whole)
            assert all(same(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("inputs", ["pointcloud", "index"])
def test_a_process_reads_its_share_alone(built, inputs):
    _, disk = both(built, inputs=inputs, train_as_test=True)
    shapes, asked = disk.parts["train"], []
    fetch = shapes.fetch
    shapes.fetch = lambda places: asked.append(list(places)) or fetch(places)
    whole = list(TrainFromDisk(shapes, 4, 32, inputs))
    asked.clear()
    shares = list(TrainFromDisk(shapes, 4, 32, inputs, rank=1, world_size=2))
    assert [len(places) for places in asked] == [2, 1]
    for batch, share in zip(whole, shares, strict=True):
        assert torch.equal(share.index, batch.index[1::2])
        assert torch.equal(share.points, batch.points[1::2])
        assert torch.equal(share.inputs, batch.inputs[1::2])


def test_one_shape_of_each_part_is_held(built):
    _, disk = both(built)
    assert {part: len(shapes.points) for part, shapes in disk.parts.items()} == {"train": 1, "val": 1, "test": 1}
    assert len(disk.parts["train"]) == 6


def test_what_is_damaged_is_named_when_it_is_reached(copy):
    model = copy / "ring" / "r4"
    (model / "points.npz").write_bytes(b"nothing")
    disk = StreamedShapes(folder=str(copy))
    disk.setup()
    loader = disk.test_dataloader()
    with pytest.raises(CorruptData, match=r"ring/r4/points\.npz is not a complete npz file"):
        list(loader)
    fmt.write_points(model / "points.npz", np.zeros((80, 3)), np.zeros(80, bool), {})
    with pytest.raises(CorruptData, match=r"ring/r4 has points float16 \(80, 3\), .*ball/b4 has float16 \(401, 3\)"):
        list(loader)
    (model / "points.npz").unlink()
    with pytest.raises(MissingData, match=r"there is no .*ring/r4/points\.npz"):
        list(loader)


def test_all_shapes_must_have_what_the_first_has(built):
    _, disk = both(built)
    fetch = disk._fetcher(disk.parts["train"], lambda model: {"points": disk._read_model(model, None)["points"]})
    with pytest.raises(CorruptData, match=r"one of .*ball/b0 and .*ring/r1 has normals, occupancies, surface, voxels"):
        fetch([4])


def test_batches_are_made_ahead_and_in_order():
    made = []

    def numbers():
        for number in range(6):
            made.append(number)
            yield number

    batches = prefetch(numbers())
    assert made == []  # whoever sets the epoch first may still do so
    assert list(islice(batches, 1)) == [0]
    while len(made) < 1 + AHEAD:
        time.sleep(0.001)
    assert list(batches) == [1, 2, 3, 4, 5]
