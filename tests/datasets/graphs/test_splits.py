"""Folds: what scikit-learn gives, disjoint, stratified; and the published split files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold

from datasets.download import CorruptData
from datasets.graphs.splits import fair_split, published_split, xu_split

LABELS = torch.tensor([0] * 125 + [1] * 63)[torch.randperm(188, generator=torch.Generator().manual_seed(0))]  # as MUTAG


def test_xu_folds_are_those_of_scikit_learn():
    folds = StratifiedKFold(n_splits=10, shuffle=True, random_state=9).split(np.zeros(188), LABELS.numpy())
    for fold, (train, held_out) in enumerate(folds):
        parts = xu_split(LABELS, fold, 9)
        assert parts["train"].tolist() == train.tolist()
        assert parts["val"].tolist() == parts["test"].tolist() == held_out.tolist()


def test_xu_folds_partition_the_graphs_and_keep_the_shares():
    folds = [xu_split(LABELS, fold, 9) for fold in range(10)]
    assert sorted(torch.cat([parts["test"] for parts in folds]).tolist()) == list(range(188))
    for parts in folds:
        assert not set(parts["train"].tolist()) & set(parts["test"].tolist())
        assert len(parts["test"]) in (18, 19)
        assert int(LABELS[parts["test"]].sum()) in (6, 7)


def test_fair_parts_are_disjoint_and_stratified():
    for fold in range(10):
        parts = fair_split(LABELS, fold, 9)
        together = torch.cat(list(parts.values())).tolist()
        assert sorted(together) == list(range(188))
        assert parts["test"].tolist() == xu_split(LABELS, fold, 9)["test"].tolist()
        assert len(parts["val"]) == 17
        assert int(LABELS[parts["val"]].sum()) in (5, 6)


def test_splits_follow_their_seed():
    for split in (xu_split, fair_split):
        again, other = split(LABELS, 0, 9), split(LABELS, 0, 8)
        assert all(torch.equal(part, again[name]) for name, part in split(LABELS, 0, 9).items())
        assert not torch.equal(again["test"], other["test"])


@pytest.mark.parametrize("fold", [-1, 10])
def test_a_fold_outside_is_refused(fold):
    with pytest.raises(ValueError, match=r"0\.\.9"):
        xu_split(LABELS, fold, 9)


def test_published_split(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps([{"test": [0, 3], "model_selection": [{"train": [1, 4], "validation": [2]}]}]))
    parts = {name: index.tolist() for name, index in published_split(path, 0, 5).items()}
    assert parts == {"train": [1, 4], "val": [2], "test": [0, 3]}


@pytest.mark.parametrize(
    "text",
    [
        '[{"test": [0, 3], "model_sel',
        '[{"test": [0]}]',
        '{"test": [0]}',
        "[]",
        '[{"test": ["a"], "model_selection": [{"train": [1], "validation": [2]}]}]',
        '[{"test": [0.0], "model_selection": [{"train": [1], "validation": [2]}]}]',
        '[{"test": [true], "model_selection": [{"train": [0], "validation": [2]}]}]',
        '[{"test": [[0]], "model_selection": [{"train": [1], "validation": [2]}]}]',
        '[{"test": [99999999999999999999], "model_selection": [{"train": [1], "validation": [2]}]}]',
        '[{"test": [-1], "model_selection": [{"train": [1], "validation": [2]}]}]',
        '[{"test": null, "model_selection": [{"train": [1], "validation": [2]}]}]',
        '[{"test": [0], "model_selection": []}]',
        '[{"test": [0, 1], "model_selection": [{"train": [1], "validation": [2]}]}]',
    ],
)
def test_a_damaged_split_file_is_named(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(CorruptData, match=str(path)):
        published_split(path, 0, 3)


@pytest.mark.parametrize(("name", "graphs"), [("NCI1", 4110), ("IMDB-BINARY", 1000), ("PROTEINS_full", 1113)])
def test_published_files_partition_their_graphs(runner_data, name, graphs):
    path = runner_data / "graphs" / "splits_fair" / f"{name}_splits.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    folds = [published_split(path, fold, graphs) for fold in range(10)]
    assert sorted(torch.cat([parts["test"] for parts in folds]).tolist()) == list(range(graphs))
    for parts in folds:
        assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(graphs))


def counted(*counts: int) -> torch.Tensor:
    return torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])


def test_a_class_that_some_folds_lack_is_said_in_our_words(caplog, recwarn):
    parts = xu_split(counted(30, 30, 4), 0, 9)
    assert len(parts["train"]) + len(parts["test"]) == 64
    assert "some of the 10 folds hold out no graph of class 2 (4 graphs)" in caplog.text
    assert not [warning for warning in recwarn if "least populated" in str(warning.message)]


@pytest.mark.parametrize("counts", [(9, 9), (5,), (3, 2, 9)])
def test_too_few_graphs_for_the_folds_are_refused(counts):
    with pytest.raises(
        ValueError, match=rf"has {sum(counts)} graphs, {max(counts)} of the largest class: too few for 10"
    ):
        xu_split(counted(*counts), 0, 9)


def test_a_class_too_small_for_a_fair_split_is_refused():
    for counts in ((40, 1), (10, *[2] * 12)):
        with pytest.raises(ValueError, match=r"dataset\.protocol=fair needs two graphs or more of each class"):
            [fair_split(counted(*counts), fold, 9) for fold in range(10)]
