"""Batches out of memory: values, draws, shares of several processes, going on after a stop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy.stats import kstest

from datasets.shapes.loaders import LATTICE_NOISE, EvalLoader, TrainLoader
from datasets.shapes.render import intrinsics as intrinsics_of
from datasets.shapes.shape_set import (
    ShapeBatch,
    ShapeSet,
    crop_images,
    crop_intrinsics,
    gather_bits,
    unpack_bits,
)

POINTS, SURFACE = 203, 50  # no whole number of bytes


def shapes(count: int = 7, dtype: torch.dtype = torch.float16) -> ShapeSet:
    """Each coordinate of a point tells its shape; inside is where the second coordinate is positive."""
    drawn = np.random.default_rng(0)
    points = drawn.uniform(-0.5, 0.5, (count, POINTS, 3))
    points[..., 0] = np.arange(count)[:, None]
    surface = drawn.uniform(-0.5, 0.5, (count, SURFACE, 3))
    surface[..., 0] = np.arange(count)[:, None]
    voxels = drawn.integers(0, 2, (count, 32**3))
    images = drawn.integers(0, 256, (count, 3, 3, 8, 8))
    cameras = images[:, :, 0, 0, :4, None] + [0, 300, 600, 900]  # they tell their pictures
    intrinsics = np.broadcast_to(intrinsics_of(1), (count, 3, 3, 3))
    return ShapeSet(
        points=torch.from_numpy(points).to(dtype),
        occupancies=torch.from_numpy(np.packbits(points[..., 1] > 0, axis=-1)),
        names=[f"shape{i}" for i in range(count)],
        categories=["even" if i % 2 == 0 else "odd" for i in range(count)],
        surface=torch.from_numpy(surface).to(dtype),
        normals=torch.from_numpy(surface).to(dtype) * 2,
        voxels=torch.from_numpy(np.packbits(voxels.astype(bool), axis=-1)),
        images=torch.from_numpy(images.astype(np.uint8)),
        cameras=torch.from_numpy(cameras[:, :, :3].astype(np.float32)),
        intrinsics=torch.from_numpy(intrinsics.astype(np.float32)),
    )


def same(a: ShapeBatch, b: ShapeBatch) -> bool:
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def train(**options) -> TrainLoader:
    return TrainLoader(shapes(), **{"batch_size": 3, "points": 16, "inputs": "pointcloud", "input_points": 5} | options)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 40))))
def test_bits_come_back_as_they_were_packed(bits):
    packed = torch.from_numpy(np.packbits(bits, axis=-1))
    assert torch.equal(unpack_bits(packed, bits.shape[1]), torch.from_numpy(bits).float())
    rows = torch.arange(len(bits)).flip(0)
    index = torch.arange(bits.shape[1]).flip(0).expand(len(bits), -1)
    assert torch.equal(gather_bits(packed, rows, index), torch.from_numpy(bits[::-1, ::-1].copy()).float())


def test_a_training_batch_is_what_it_says():
    batches = list(train())
    assert [len(batch.index) for batch in batches] == [3, 3, 1]
    for batch in batches:
        count = len(batch.index)
        assert batch.cameras is batch.intrinsics is None
        floats = set(ShapeBatch._fields) - {"index", "cameras", "intrinsics"}
        assert all(getattr(batch, name).dtype == torch.float32 for name in floats)
        assert batch.index.dtype == torch.int64
        assert batch.points.shape == (count, 16, 3)
        assert batch.occupancies.shape == (count, 16)
        assert batch.inputs.shape == (count, 5, 3)
        assert batch.voxels.shape == (count, 32, 32, 32)
        assert batch.surface.shape == batch.normals.shape == (count, 1024, 3)
        own = batch.index[:, None].float()
        assert ((batch.points[..., 0] - own).abs() < 6 * LATTICE_NOISE).all()
        assert ((batch.inputs[..., 0] - own).abs() < 0.05).all()
        assert torch.equal(batch.surface[..., 0], own.expand(-1, 1024))
        assert torch.equal(batch.normals, batch.surface * 2)
        clear = batch.points[..., 1].abs() > 6 * LATTICE_NOISE
        assert torch.equal(batch.occupancies[clear], (batch.points[..., 1] > 0)[clear].float())
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(7))


@pytest.mark.parametrize("inputs", ["pointcloud", "voxels", "image", "index", "none"])
@pytest.mark.parametrize("sampling", ["uniform", "equal"])
def test_a_resumed_epoch_is_that_of_an_uninterrupted_run(inputs, sampling):
    ours = train(seed=4, inputs=inputs, sampling=sampling)
    epochs = []
    for epoch in range(3):
        ours.set_epoch(epoch)
        epochs.append(list(ours))
    resumed = train(seed=4, inputs=inputs, sampling=sampling)
    resumed.set_epoch(2)
    assert all(same(a, b) for a, b in zip(resumed, epochs[2], strict=True))
    flat = [batch.points.flatten().tolist() for batches in epochs for batch in batches]
    assert len(set(map(tuple, flat))) == 9
    other = next(iter(train(seed=5, inputs=inputs, sampling=sampling)))
    assert not torch.equal(other.points, epochs[0][0].points)


def test_lightning_sets_the_epoch_after_it_has_made_the_iterator():
    ours, late = train(), train()
    ours.set_epoch(2)
    started = iter(late)
    late.set_epoch(2)
    assert all(same(a, b) for a, b in zip(ours, started, strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("inputs", ["pointcloud", "image"])
def test_the_shares_of_several_processes_are_the_batches_of_one(world_size, inputs):
    options = {"inputs": inputs, "batch_size": 4, "sampling": "equal"}
    shares = [train(rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    alone = train(**options)
    assert {len(loader) for loader in shares} == {len(alone)}
    for whole, *parts in zip(alone, *shares, strict=True):
        for rank, part in enumerate(parts):
            share = ShapeBatch(*(None if values is None else values[rank::world_size] for values in whole))
            assert len(part.index) > 0
            assert same(share, part)


def test_a_rest_that_is_too_small_joins_the_batch_before_it():
    shares = [train(rank=rank, world_size=2) for rank in range(2)]
    assert [[len(batch.index) for batch in loader] for loader in shares] == [[2, 2], [1, 2]]


def test_iterations_go_through_the_shapes_again_and_again():
    batches = list(train(iterations=5, batch_size=14))
    assert len(batches) == 5
    assert all(batch.index.bincount().tolist() == [2] * 7 for batch in batches)


@pytest.mark.parametrize("sampling", ["uniform", "equal"])
def test_points_are_drawn_evenly(sampling):
    part, count = shapes(dtype=torch.float32), 100_001
    inside = unpack_bits(part.occupancies, POINTS).sum(1).long()
    batch = next(iter(TrainLoader(part, 7, count, "none", sampling=sampling)))
    for points, occupancies, place in zip(batch.points, batch.occupancies, batch.index.tolist(), strict=True):
        found, drawn = points.unique(dim=0, return_counts=True)
        assert len(found) == POINTS  # each of them, and no other
        within = found[:, 1] > 0
        half = {"uniform": count * int(inside[place]) / POINTS, "equal": count // 2}[sampling]
        expected = torch.where(within, half / inside[place], (count - half) / (POINTS - inside[place]))
        assert ((drawn - expected).abs() < 6 * expected.sqrt()).all()
        if sampling == "equal":
            assert occupancies.sum() == count // 2


def test_a_shape_without_inside_cannot_be_drawn_half_inside():
    part = shapes()
    part.occupancies[3] = 0
    with pytest.raises(ValueError, match=r"dataset.sampling=equal: shape3 has no points inside"):
        TrainLoader(part, 3, 16, "none", sampling="equal")


def test_images_are_drawn_among_the_views_and_resized():
    part = shapes()
    batch = next(iter(TrainLoader(part, 7, 16, "image")))
    views = {tuple(x.flatten().tolist()) for x in part.images.flatten(0, 1).float() / 255}
    assert all(tuple(x.flatten().tolist()) in views for x in batch.inputs)
    assert next(iter(TrainLoader(part, 2, 16, "image", image_size=20))).inputs.shape == (2, 3, 20, 20)
    assert torch.equal(next(iter(EvalLoader(part, "image"))).inputs, part.images[:1, 0].float() / 255)


def test_pictures_come_with_their_cameras():
    part = shapes()
    for batch in [*TrainLoader(part, 3, 16, "image", image_size=20), *EvalLoader(part, "image", image_size=20)]:
        assert batch.cameras.shape == (len(batch.index), 3, 4)
        assert torch.equal(batch.intrinsics, part.intrinsics[batch.index, 0])
    for batch in [*TrainLoader(part, 3, 16, "image"), *EvalLoader(part, "image")]:
        first = (batch.inputs[:, 0, 0, :3] * 255).round()
        assert torch.equal(batch.cameras, first[:, :, None] + torch.tensor([0.0, 300, 600, 900]))
    part.cameras = part.intrinsics = None
    for loader in (TrainLoader(part, 3, 16, "image", image_crop=0.5), EvalLoader(part, "image")):
        batch = next(iter(loader))
        assert batch.cameras is batch.intrinsics is None


def test_in_a_square_of_a_picture_points_are_where_they_are_drawn():
    """Bright pixels, and where the intrinsics of the square say that they are."""
    drawn = np.random.default_rng(2)
    pictures, crop = torch.zeros(50, 1, 16, 16), torch.tensor(drawn.uniform(0, 0.3, (50, 3)), dtype=torch.float32)
    crop[:, 2] = 1 - crop[:, :2].amax(1)
    row, column = torch.tensor(drawn.integers(7, 10, (2, 50)))
    pictures[torch.arange(50), 0, row, column] = 1
    found = crop_images(pictures, crop, 64)[:, 0]
    centre = (torch.arange(64) + 0.5) / 64
    mass = found.sum((1, 2))
    seen = torch.stack([(found.sum(1) * centre).sum(1) / mass, (found.sum(2) * centre).sum(1) / mass], 1)
    lens = torch.tensor(intrinsics_of(1), dtype=torch.float32)
    shares = torch.stack([(column + 0.5) / 16, (row + 0.5) / 16, torch.ones(50)], 1)
    rays = torch.linalg.solve(lens, shares.T).T * torch.linspace(1, 3, 50)[:, None]
    expected = (crop_intrinsics(lens.expand(50, 3, 3), crop) @ rays[..., None])[..., 0]
    torch.testing.assert_close(seen, expected[:, :2] / expected[:, 2:], atol=2e-3, rtol=0)


def test_squares_of_pictures_are_what_pillow_cuts_out():
    pixels = np.random.default_rng(1).uniform(size=(3, 1, 20, 20)).astype(np.float32)
    squares = [(0, 0, 20), (3, 5, 12), (8, 2, 10)]  # left, top, side in pixels
    ours = crop_images(torch.from_numpy(pixels), torch.tensor(squares) / 20, 30)
    for picture, found, (left, top, side) in zip(pixels, ours, squares, strict=True):
        whole = Image.fromarray(picture[0])
        expected = whole.resize((30, 30), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        inner = slice(2, -2)  # at the edges of the square we see what lies beyond
        np.testing.assert_allclose(found[0, inner, inner], np.asarray(expected)[inner, inner], atol=1e-5)


def test_pictures_are_cropped_in_training_alone_and_stay_within():
    part = shapes()
    ramp = torch.arange(8, dtype=torch.uint8).mul(30).expand(7, 3, 3, 8, 8)
    part.images = ramp.clone()  # brightness is the place from the left
    loader = TrainLoader(part, 7, 4, "image", image_crop=0.25, image_size=64)
    wide = []
    for epoch in range(40):
        loader.set_epoch(epoch)
        pictures = next(iter(loader)).inputs
        torch.testing.assert_close(pictures, pictures[:, :, :1].expand_as(pictures))
        step = (pictures[:, 0, 0, 33] - pictures[:, 0, 0, 30]) / 3 * 64 / (30 / 255 * 8)
        wide += step.tolist()
        assert ((pictures >= 0) & (pictures <= 7 * 30 / 255 + 1e-6)).all()
    areas = np.square(wide)
    assert areas.min() > 0.24
    assert areas.max() < 1.01
    assert kstest(areas, "uniform", (0.25, 0.75)).pvalue > 1e-4
    assert torch.equal(next(iter(EvalLoader(part, "image"))).inputs, ramp[:1, 0].float() / 255)


def test_evaluation_gives_all_that_is_stored_and_the_same_each_time():
    part = shapes()
    first, again = list(EvalLoader(part, "pointcloud")), list(EvalLoader(part, "pointcloud"))
    assert len(first) == 7
    for place, (batch, same_batch) in enumerate(zip(first, again, strict=True)):
        assert same(batch, same_batch)
        assert batch.index.tolist() == [place]
        assert ((batch.points[0] - part.points[place].float()).abs() < 6 * LATTICE_NOISE).all()
        assert torch.equal(batch.occupancies[0], unpack_bits(part.occupancies[place], POINTS))
        assert torch.equal(batch.surface[0], part.surface[place].float())
        assert torch.equal(batch.normals[0], part.normals[place].float())
        assert torch.equal(batch.voxels[0].flatten(), unpack_bits(part.voxels[place], 32**3))
        assert batch.inputs.shape == (1, 300, 3)
    only = list(EvalLoader(part, "pointcloud", places=[2, 5]))
    assert same(only[1], first[5])


def test_noise_takes_points_off_the_lattice_of_float16_alone():
    exact = shapes(dtype=torch.float32)
    assert torch.equal(next(iter(EvalLoader(exact, "none"))).points[0], exact.points[0])
    batch = next(iter(EvalLoader(shapes(), "none")))
    noise = (batch.points[0] - shapes().points[0].float())[:, 1:]
    assert 0.8 * LATTICE_NOISE < noise.std() < 1.2 * LATTICE_NOISE


def test_the_input_cloud_has_the_noise_asked_for():
    part = shapes(dtype=torch.float32)
    cloud = next(iter(TrainLoader(part, 7, 4, "pointcloud", input_points=4000, input_noise=0.02)))
    noise = cloud.inputs[..., 0] - cloud.index[:, None]
    assert noise.std() == pytest.approx(0.02, rel=0.05)
    clean = next(iter(TrainLoader(part, 7, 4, "pointcloud", input_noise=0.0)))
    assert torch.equal(clean.inputs[..., 0], clean.index[:, None].float().expand(-1, 300))


@pytest.mark.parametrize("world_size", [2, 3])
def test_evaluation_shares_shapes_among_processes(world_size):
    loaders = [EvalLoader(shapes(), "none", rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(loader) for loader in loaders}) == 1
    assert {int(batch.index) for loader in loaders for batch in loader} == set(range(7))


def test_what_is_not_there_is_refused():
    part = shapes()
    part.images = None
    with pytest.raises(ValueError, match=r"dataset.inputs=image: this data set has none"):
        EvalLoader(part, "image")
    with pytest.raises(ValueError, match="7 shapes in batches of 3 are too few for 4 processes"):
        TrainLoader(shapes(), 3, 16, "none", world_size=4)
