"""DataModules of collections: which files they read, and which they refuse."""

from __future__ import annotations

import json

import pytest
from hydra.utils import instantiate

from datasets.download import CorruptData, MissingData
from datasets.graphs import gin_text
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
    with pytest.raises(ValueError, match=r"dataset\.format=any is unknown; choose from tu, gin"):
        TUGraphs("TOY", "any", root=tmp_path)


@pytest.mark.parametrize("dataset", ["collab", "reddit_binary"])
def test_raw_files_do_not_stand_in_for_the_text(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(gin_text, "GIN_URL", "http://127.0.0.1:9/gin.zip")
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, r"dataset\.batch_size must be positive"),
        ({"iterations": 0}, r"dataset\.iterations must be positive"),
        ({"iterations": -5}, r"dataset\.iterations must be positive"),
        ({"fold": 10}, r"dataset\.fold=10 is unknown"),
        ({"fold": -1}, r"dataset\.fold=-1 is unknown"),
        ({"fold_seed": -1}, r"dataset\.fold_seed must be a whole number"),
        ({"protocol": "loo"}, r"dataset\.protocol=loo is unknown; choose from xu, fair"),
        ({"readout": "max"}, r"dataset\.readout=max is unknown; choose from sum, mean"),
        ({"splits_file": "a.json"}, r"dataset\.splits_file goes with dataset\.protocol=fair"),
        ({"expect": {"nodes": 3}}, r"dataset\.expect\.nodes is unknown; choose from graphs, classes, features"),
        ({"node_features": "tags"}, r"dataset\.node_features=tags is unknown; choose from auto, labels"),
        ({"format": "gin", "cleaned": True}, r"dataset\.cleaned=true exists in the raw format alone"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        TUGraphs("TOY", **options)


def test_an_unexpected_count_says_how_to_use_the_data_nevertheless(tmp_path):
    write_tu(tmp_path / "TOY" / "raw", TOY)
    with pytest.raises(CorruptData, match=r"\{'graphs': 3\}, expected \{'graphs': 4\}.*set dataset\.expect=null"):
        TUGraphs("TOY", root=tmp_path, expect={"graphs": 4}).setup()


@pytest.mark.parametrize(
    "dataset", ["mutag", "ptc", "ptc_mr", "proteins", "nci1", "imdb_binary", "collab", "reddit_binary"]
)
def test_the_choices_name_their_format_and_features(dataset):
    cfg = compose(["method=graphnorm", f"dataset={dataset}"]).dataset
    assert cfg.format in ("tu", "gin")
    assert cfg.node_features in ("labels", "degree", "constant")
