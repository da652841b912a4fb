"""The choices of conf/dataset/ for shapes: each is built as it stands."""

from __future__ import annotations

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datasets.download import MissingData
from datasets.shapes.base import ShapeDataModule
from datasets.shapes.datamodules import PSB, ShapeNet, StoredShapes
from datasets.shapes.solids import Solids
from datasets.shapes.streaming import StreamedShapeNet
from runner.config.place import CONF


def choice(name: str, **options) -> ShapeDataModule:
    common, own = (OmegaConf.load(CONF / "dataset" / f"{file}.yaml") for file in ("_shapes", name))
    assert own.pop("defaults") == ["_shapes"]
    return instantiate(OmegaConf.merge(common, own), **options)


def test_the_embedded_set_needs_no_files(tmp_path):
    data = choice("solids", root=tmp_path, workers=2, categories=["torus", "box"], batch_size=8)
    assert type(data) is Solids
    data.prepare_data()
    data.setup()
    assert [len(data.names(part)) for part in ("train", "val", "test")] == [32, 4, 8]
    batch = next(iter(data.train_dataloader()))
    assert batch.points.shape == (8, 2048, 3)
    assert batch.inputs.shape == (8, 300, 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("psb", PSB, {}),
        ("shapenet", StreamedShapeNet, {}),
        ("shapenet_in_memory", ShapeNet, {}),
        ("shape_folder", StoredShapes, {"folder": "mine"}),
    ],
)
def test_sets_that_are_not_there_say_so(tmp_path, name, kind, options):
    data = choice(name, root=tmp_path, seed=1, workers=1, **options)
    assert type(data) is kind

    def read() -> None:
        data.prepare_data()
        data.setup()

    with pytest.raises(MissingData, match=str(tmp_path)):
        read()


def test_one_folder_of_shapes(built):
    data = choice("shape_folder", folder=str(built), inputs="voxels")
    data.prepare_data()
    data.setup()
    assert data.dims == {"inputs": "voxels", "num_shapes": 6}
