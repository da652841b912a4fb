"""What all training shares: BatchNorm's check of the batches before training starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from datasets.graphs.molecules import ATOM_SIZES, BOND_SIZES
from datasets.graphs.store import GraphLoader
from methods.graphnorm.module import GraphClassifier
from methods.graphnorm.molecules import MoleculeClassifier, MoleculeGIN
from methods.graphnorm.networks import GIN


def data(random_graphs, sizes: tuple[int, ...], batch_size: int) -> SimpleNamespace:
    store, _ = random_graphs(sizes=sizes)
    loader = GraphLoader(store, torch.arange(len(sizes)), batch_size, shuffle=True)
    return SimpleNamespace(train_dataloader=lambda: loader)


def modules(norm: str) -> list:
    network = GIN(6, 2, hidden=8, layers=2, norm=norm)
    molecules = MoleculeGIN(ATOM_SIZES, BOND_SIZES, hidden=8, layers=2, norm=norm)
    return [GraphClassifier(network), MoleculeClassifier(molecules)]


@pytest.mark.parametrize("norm", ["batch", "diff_group"])
@pytest.mark.parametrize(("sizes", "batch_size"), [((3, 1, 3), 1), ((3, 1, 3, 3, 3), 2), ((1, 1, 1), 2)])
def test_batch_norm_refuses_a_batch_of_one_node_before_training(random_graphs, norm, sizes, batch_size):
    for module in modules(norm):
        with pytest.raises(ValueError, match=r"single node.*choose another dataset\.batch_size.*another model\.norm"):
            module.prepare(data(random_graphs, sizes, batch_size))


@pytest.mark.parametrize(
    ("norm", "sizes", "batch_size"),
    [
        ("batch", (3, 2, 3), 1),  # no graph of a single node
        ("batch", (3, 1, 3, 3), 2),  # no batch of one graph
        ("batch", (1, 1), 2),
        ("graph", (3, 1, 3), 1),  # the others need no batch statistics
        ("layer", (3, 1, 3), 1),
        ("none", (3, 1, 3), 1),
    ],
)
def test_other_norms_and_batches_are_fine(random_graphs, norm, sizes, batch_size):
    for module in modules(norm):
        module.prepare(data(random_graphs, sizes, batch_size))


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_a_dropout_outside_0_and_1_is_named(dropout):
    with pytest.raises(ValueError, match=r"model\.dropout must be a number in \[0, 1\]"):
        GIN(6, 2, dropout=dropout)
    with pytest.raises(ValueError, match=r"model\.dropout must be a number in \[0, 1\]"):
        MoleculeGIN(ATOM_SIZES, BOND_SIZES, dropout=dropout)
