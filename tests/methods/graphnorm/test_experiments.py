"""Sweeps of the paper's tables: each collection has the settings that the paper's scripts publish for it."""

from __future__ import annotations

import pytest

from runner.config.address import Run
from runner.config.compose import compose
from runner.config.grids import expand_sweep

TABLE1 = ["experiment=graphnorm/table1"]


def test_table1_has_ten_folds_of_four_norms_on_seven_collections():
    runs = expand_sweep(compose(TABLE1), TABLE1)
    assert len({tuple(sorted(overrides)) for overrides in runs}) == len(runs) == 7 * 4 * 10


@pytest.mark.parametrize(
    ("dataset", "lr", "weight_decay", "learn_eps"),
    [
        ("mutag", 0.01, 0.0, False),
        ("ptc", 0.01, 0.0, False),
        ("proteins", 0.01, 0.05, True),
        ("nci1", 0.01, 0.0, False),
        ("imdb_binary", 0.01, 0.0, False),
        ("reddit_binary", 0.001, 0.0, True),
        ("collab", 0.01, 0.0, False),
    ],
)
def test_table1_has_the_published_settings(dataset, lr, weight_decay, learn_eps):
    overrides = [*TABLE1, f"dataset={dataset}", "dataset.fold=3"]
    runs = [Run.compose(run).cfg for run in expand_sweep(compose(TABLE1), overrides)]
    assert len(runs) == 4
    for cfg in runs:
        assert (cfg.method.lr, cfg.method.weight_decay, cfg.model.learn_eps) == (lr, weight_decay, learn_eps)
    assert {cfg.model.norm for cfg in runs} == {"graph", "batch", "instance", "layer"}


def test_the_molhiv_table_says_which_norm_the_published_code_runs():
    (note,) = compose(["experiment=graphnorm/table1_molhiv"]).table.notes
    assert "has no learnable share of the mean, so it is InstanceNorm" in note
