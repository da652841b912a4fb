"""DataModules of collections: which files they read, and which they refuse."""

from __future__ import annotations

import json

import pytest
from hydra.utils import instantiate

from datasets.download import CorruptData, MissingData
from datasets.graphs import tu
from datasets.graphs.datamodule import AtlasGraphs, TUGraphs
from runner.config.compose import compose
from tests.datasets.graphs.test_tu import TOY, TOY_GIN, check_toy, write_gin, write_tu


def test_the_format_decides_what_is_read_not_what_lies_on_disk(tmp_path):
    write_tu(tmp_path / "TOY" / "raw", TOY | {"graph_labels": "1\n1\n-1\n"})
    (tmp_path / "gin" / "TOY").mkdir(parents=True)
    write_gin(tmp_path / "gin" / "TOY" / "TOY.txt", TOY_GIN)
    assert TUGraphs("TOY", "tu", root=tmp_path).read().y.tolist() == [1, 1, 0]
    check_toy(TUGraphs("TOY", "gin", root=tmp_path).read())
    with pytest.raises(ValueError, match="the raw format"):
        TUGraphs("TOY", "gin", root=tmp_path, protocol="fair", splits_file="splits.json")
    with pytest.raises(ValueError, match="tu or gin"):
        TUGraphs("TOY", "any", root=tmp_path)


@pytest.mark.parametrize("dataset", ["collab", "reddit_binary"])
def test_raw_files_do_not_stand_in_for_the_text(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(tu, "GIN_URL", "http://127.0.0.1:9/gin.zip")
    cfg = compose(["method=graphnorm", f"dataset={dataset}"]).dataset
    write_tu(tmp_path / cfg.name / "raw", TOY, cfg.name)
    with pytest.raises(MissingData, match="GIN text format"):
        instantiate(cfg, root=tmp_path).setup()


@pytest.mark.parametrize("graphs", [993, 995])
def test_a_split_file_of_another_collection_is_named(tmp_path, graphs):
    path = tmp_path / "splits.json"
    path.write_text(
        json.dumps([{"test": [0], "model_selection": [{"train": list(range(2, graphs)), "validation": [1]}]}])
    )
    with pytest.raises(CorruptData) as error:
        AtlasGraphs(protocol="fair", splits_file=path.name, root=tmp_path).setup()
    for part in (str(path), "994 graphs", f"largest index is {graphs - 1}"):
        assert part in str(error.value)
