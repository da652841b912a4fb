"""The DataModule of shapes on the embedded solids: parts, categories, limits, sampling, Lightning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from datasets.shapes.base import round_robin
from datasets.shapes.csg import CATEGORIES
from datasets.shapes.shape_set import ShapeBatch, unpack_bits
from datasets.shapes.solids import Solids

SMALL = {"shapes": {"train": 3, "val": 1, "test": 2}, "stored_points": 600, "points": 64, "batch_size": 5}


def solids(**options) -> Solids:
    data = Solids(**SMALL | options)
    data.prepare_data()
    data.setup()
    return data


def test_parts_names_and_categories():
    data = solids()
    assert data.dims == {"inputs": "pointcloud", "num_shapes": 24}
    assert data.categories == sorted(CATEGORIES)
    assert data.category_of("test") == [name for name in sorted(CATEGORIES) for _ in range(2)]
    assert data.names("test")[:3] == ["box/test/0", "box/test/1", "cone/test/0"]
    names = [name for part in ("train", "val", "test") for name in data.names(part)]
    assert len(set(names)) == len(names) == 24 + 8 + 16
    loader = data.train_dataloader()
    assert [len(batch.index) for batch in loader] == [5, 5, 5, 5, 4]
    assert len(list(data.val_dataloader())) == 8


def test_stored_shapes_are_the_solids_of_their_names():
    data = solids(stored_points=2000)
    for batch in data.test_dataloader():
        solid = data.solid(data.names("test")[int(batch.index)])
        points, surface, normals = (v[0].double().numpy() for v in (batch.points, batch.surface, batch.normals))
        assert np.abs(points).max() <= 0.5505
        # Rounding to float16 and the noise move points by up to 1e-3.
        clear = solid.contains(points + [[[1e-3, 0, 0]], [[-1e-3, 0, 0]], [[0, 1e-3, 0]]][0]) == solid.contains(points)
        for step in 1.5e-3 * np.concatenate([np.eye(3), -np.eye(3)]):
            clear &= solid.contains(points + step) == solid.contains(points)
        assert clear.mean() > 0.95
        assert (batch.occupancies[0].numpy() == solid.contains(points))[clear].all()
        assert solid.contains(surface - 2e-3 * normals).mean() > 0.98
        assert solid.contains(surface + 2e-3 * normals).mean() < 0.02
        x, y, z = np.meshgrid(*[(np.arange(32) + 0.5) / 32 - 0.5] * 3, indexing="ij")
        expected = solid.contains(np.stack([x.ravel(), y.ravel(), z.ravel()], 1)).reshape(32, 32, 32)
        assert (batch.voxels[0].numpy() == expected).all()


def test_cameras_of_pictures_show_where_the_surface_is():
    few = {"shapes": {"train": 1, "val": 1, "test": 2}, "views": 2, "categories": ["cup", "table"]}
    data = solids(inputs="image", image_size=None, stored_points=3000, **few)
    for batch in data.test_dataloader():
        points = batch.surface[0]
        at = (batch.intrinsics[0] @ (batch.cameras[0, :, :3] @ points.T + batch.cameras[0, :, 3:])).T
        column, row = (at[:, :2] / at[:, 2:] * 137).floor().long().T
        shown = batch.inputs[0, 0] < 0.99
        assert shown[row, column].float().mean() > 0.9  # the pictures' meshes have rounded edges
        hit = torch.zeros_like(shown)
        for x in (-1, 0, 1):
            for y in (-1, 0, 1):
                hit[row + y, column + x] = True
        assert hit[shown].float().mean() > 0.9


def test_more_shapes_begin_with_the_same_ones_and_seeds_differ():
    few, many = solids(), solids(shapes={"train": 4, "val": 1, "test": 2})
    assert few.names("train")[1] == many.names("train")[1]
    assert torch.equal(few.parts["train"].points[1], many.parts["train"].points[1])
    assert torch.equal(solids(seed=3).parts["test"].surface, few.parts["test"].surface)
    assert not torch.equal(solids(shape_seed=1).parts["test"].points, few.parts["test"].points)


def test_categories_and_limits():
    data = solids(categories=["torus", "cup"], limit_train=3, limit_val=1, limit_test=2)
    assert data.categories == ["cup", "torus"]
    assert data.names("train") == ["cup/train/0", "cup/train/1", "torus/train/0"]
    assert data.category_of("val") == ["cup"]
    assert data.category_of("test") == ["cup", "torus"]


def test_in_turn():
    categories = ["a", "a", "a", "b", "c", "c"]
    assert round_robin(categories, None) == round_robin(categories, 9) == [0, 1, 2, 3, 4, 5]
    assert round_robin(categories, 3) == [0, 3, 4]
    assert round_robin(categories, 4) == [0, 1, 3, 4]
    assert round_robin(categories, 1) == [0]


def test_the_training_shapes_can_take_the_place_of_the_others():
    data = solids(inputs="index", train_as_test=True, limit_test=3)
    assert data.dims == {"inputs": "index", "num_shapes": 24}
    assert data.names("test") == data.names("train")
    batches = list(data.test_dataloader())
    assert [int(batch.inputs) for batch in batches] == [0, 3, 6]  # the places in training, of three categories
    assert torch.equal(batches[1].occupancies[0], unpack_bits(data.parts["train"].occupancies[3], 600))
    assert len(list(data.val_dataloader())) == 24
    assert next(iter(data.train_dataloader())).inputs.dtype == torch.int64


def test_pictures_show_the_solids_from_above():
    data = solids(inputs="image", views=2, image_size=40, categories=["cup", "table"])
    assert data.parts["train"].images.shape == (6, 2, 3, 40, 40)
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (5, 3, 40, 40)
    shown = (batch.inputs[:, 0] < 0.95).flatten(1).float().mean(1)
    assert ((shown > 0.05) & (shown < 0.6)).all()


def test_points_near_the_surface_are_for_training_alone():
    plain, near = solids(stored_points=3000), solids(stored_points=3000, sampling="surface")
    for part in ("val", "test"):
        assert torch.equal(plain.parts[part].points, near.parts[part].points)
    train = near.parts["train"]
    for place in (0, 7, 20):
        solid = near.solid(train.names[place])
        points = train.points[place].double().numpy()
        inside = unpack_bits(train.occupancies[place], 3000).numpy()
        assert (solid.contains(points) == inside).mean() > 0.95
        # A point within 3 sigma of the surface has the other side within 3 sigma.
        steps = np.random.default_rng(0).normal(size=(64, 1, 3))
        steps *= 0.03 / np.linalg.norm(steps, axis=-1, keepdims=True)
        crossing = np.any([solid.contains(points + step) != solid.contains(points) for step in steps], 0)
        assert crossing[1500:].mean() > 0.97
        assert crossing[:1500].mean() < 0.6
    kept = solids(stored_points=3000, sampling="surface", inputs="index", train_as_test=True)
    assert torch.equal(kept.parts["test"].points, plain.parts["train"].points)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": "mesh"}, "dataset.inputs=mesh is unknown; choose from pointcloud, voxels, image, index, none"),
        ({"views": 0}, "dataset.views must be positive"),
        ({"inputs": "index"}, "dataset.train_as_test=true"),
        ({"sampling": "both"}, "dataset.sampling=both is unknown; choose from uniform, equal, surface"),
        ({"points": 0}, "dataset.points must be positive, got 0"),
        ({"batch_size": 0}, "dataset.batch_size must be positive"),
        ({"limit_test": 0}, "dataset.limit_test must be positive"),
        ({"iterations": 0}, "dataset.iterations must be positive"),
        ({"input_noise": -1.0}, "dataset.input_noise must not be negative"),
        ({"image_crop": 0.0}, r"dataset.image_crop must be in \(0, 1\]"),
        ({"categories": []}, "dataset.categories must name at least one"),
        ({"categories": ["cup", "cup"]}, "dataset.categories must name at least one, and each once"),
        ({"categories": ["mug"]}, "dataset.categories: no mug; there are box, cone, cup"),
        ({"shapes": {"train": 3}}, "dataset.shapes must have a positive train, val and test"),
        ({"stored_points": 0}, "dataset.stored_points must be positive"),
        ({"shape_seed": -1}, "dataset.shape_seed must not be negative"),
    ],
)
def test_bad_arguments_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        solids(**options)


class Counts(LightningModule):
    """Takes notes of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ShapeBatch]] = []
        self.shapes: dict[str, list[int]] = {"val": [], "test": []}

    def training_step(self, batch: ShapeBatch, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch))
        return self.weight * batch.occupancies.mean()

    def validation_step(self, batch: ShapeBatch, batch_idx: int) -> None:
        self.shapes["val"].append(int(batch.index))

    def test_step(self, batch: ShapeBatch, batch_idx: int) -> None:
        self.shapes["test"].append(int(batch.index))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(epochs: int, folder) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path):
    whole, first, second = Counts(), Counts(), Counts()
    trainer(3, tmp_path / "whole").fit(whole, solids())
    begun = trainer(2, tmp_path / "begun")
    begun.fit(first, solids())
    begun.save_checkpoint(tmp_path / "last.ckpt")
    ended = trainer(3, tmp_path / "ended")
    ended.fit(second, solids(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert [epoch for epoch, _ in second.seen] == [2] * 5
    seen = [*first.seen, *second.seen]
    assert len(seen) == len(whole.seen) == 15
    for (epoch, batch), (expected, other) in zip(seen, whole.seen, strict=True):
        assert epoch == expected
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(batch, other, strict=True))
    assert not torch.equal(whole.seen[0][1].points, whole.seen[5][1].points)
    ended.test(second, solids(), verbose=False)
    assert second.shapes == {"val": list(range(8)), "test": list(range(16))}
