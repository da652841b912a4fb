"""The keys that all data sets of a kind share are the arguments of its class, with the same defaults."""

from __future__ import annotations

import inspect

import pytest
import yaml
from hydra.utils import get_object

from runner.config.place import CONF

KINDS = {
    "_graphs": "datasets.graphs.datamodule.CollectionDataModule datasets.graphs.datamodule.GraphDataModule",
    "_tu": "datasets.graphs.datamodule.TUGraphs",
    "_images": "datasets.images.base.ImageDataModule",
    "_shapes": "datasets.shapes.base.ShapeDataModule",
    "_clicks": "datasets.ctr.datamodule.CTRDataModule",
    "_text": "datasets.text.datamodule.TextData",
}
DIFFERENT = {"_tu": {"node_features"}, "_text": {"calibration"}}  # the papers' choices


@pytest.mark.parametrize("file", KINDS)
def test_values_in_conf_are_the_defaults_of_the_class(file):
    parameters = {}
    for target in KINDS[file].split():
        parameters |= inspect.signature(get_object(target)).parameters
    shared = yaml.safe_load((CONF / "dataset" / f"{file}.yaml").read_text())
    for key, value in shared.items():
        if key not in {"defaults", "_target_"} | DIFFERENT.get(file, set()):
            default = parameters[key].default
            assert value == default or (not value and not default), f"{key}: {value} in conf, {default} in the class"
