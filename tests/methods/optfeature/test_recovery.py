"""Planted interactions: the measure itself, and a search that finds them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from datasets.ctr.synthetic import PlantedPair, generate, zipf_values
from methods.optfeature.factorization_machines import FM
from methods.optfeature.recovery import gate_grid, recovery
from methods.optfeature.selection.controls import MutualInformation
from methods.optfeature.selection.optfeature import FieldSelection, ValueSelection
from methods.optfeature.selection.optfs import OptFS

CARDINALITIES = (12, 10, 8, 6, 6, 5)


@pytest.fixture(scope="module")
def log():
    return generate(30_000, CARDINALITIES, 3, 0, exponent=0.3, pair_effect=1.5, seed=3)


def tensors(log):
    offsets = torch.tensor([0, *log.sizes[:-1]]).cumsum(0)
    return torch.from_numpy(log.ids) + offsets, torch.from_numpy(log.labels)


def test_recovery_counts_pairs_and_values():
    selection = ValueSelection((3, 4, 3), dim=2, rank=2)
    # gates are sign(u_i . u_j): one row of the table a value, with the identity as map
    selection.factors.linear.weight.data.copy_(torch.eye(2))
    selection.factors.linear.bias.data.zero_()
    up, down = [1.0, 0.0], [-1.0, 0.0]
    table = [up, down, up, up, up, down, up, down, down, up]
    selection.value_table.weight.data.copy_(torch.tensor(table))
    selection.freeze()
    assert gate_grid(selection, 0, 1).tolist() == [[True, True, False], [False, False, True]]
    assert gate_grid(selection, 0, 2).tolist() == [[False, False], [True, True]]
    planted = [PlantedPair(0, 1, (0,)), PlantedPair(0, 2)]
    # kept (half or more open): all three of (0, 1), (0, 2) and not (1, 2), which has 2 of 6
    assert recovery(selection, planted) == pytest.approx(
        {"pair_precision": 1.0, "pair_recall": 1.0, "value_precision": 2 / 3, "value_recall": 2 / 3}
    )
    assert recovery(OptFS((3, 3)), planted) == {}
    assert recovery(selection, []) == {}


def test_grids_of_many_values_are_computed_in_parts(monkeypatch):
    torch.manual_seed(0)
    selection = ValueSelection((7, 6, 3), dim=2, rank=2, bias_init="zeros")
    selection.freeze()
    whole = gate_grid(selection, 0, 1)
    seen = []
    gates = selection.gates
    monkeypatch.setattr("methods.optfeature.recovery.GRID_ROWS", 4)
    monkeypatch.setattr(selection, "gates", lambda ids: seen.append(len(ids)) or gates(ids))
    assert torch.equal(gate_grid(selection, 0, 1), whole)
    assert seen == [4] * 7 + [2]
    assert whole.any()
    assert not whole.all()


def test_values_follow_zipf():
    import numpy as np

    values = zipf_values(np.random.default_rng(0), 200_000, 50, 1.0)
    shares = np.bincount(values, minlength=50) / len(values)
    expected = 1 / np.arange(1, 51)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.003)


def test_generated_clicks_have_their_probabilities(log):
    assert log.probabilities.mean() == pytest.approx(0.25, abs=1e-6)
    assert log.labels.mean() == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="pairs"):
        generate(10, (3, 3), 2, 0)


def test_mutual_information_finds_planted_pairs(log):
    ids, labels = tensors(log)

    class Data:
        from datasets.ctr.loader import Shard

        shards = {"train": [Shard(ids.int(), labels)]}  # noqa: RUF012

    selection = MutualInformation(log.sizes, kept_ratio=3 / 15)
    selection.prepare(Data)
    assert recovery(selection, log.planted) == {"pair_precision": 1.0, "pair_recall": 1.0}


def search(log, selection, steps: int) -> None:
    """Train selection and factorization machine, which has nothing but its pair terms to model pairs with."""
    ids, labels = tensors(log)
    network = FM(log.sizes, 8, linear=True)
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.02), *selection.optimizers()]
    for step in range(steps):
        rows = torch.randint(0, len(ids), (1024,), generator=torch.Generator().manual_seed(step))
        loss = binary_cross_entropy_with_logits(
            network(ids[rows], selection.gates(ids[rows]).pair), labels[rows].float()
        )
        for optimizer in optimizers:
            optimizer.zero_grad()
        (loss + selection.penalty()).backward()
        for optimizer in optimizers:
            optimizer.step()
    selection.freeze()


def test_the_search_finds_planted_pairs(log):
    """All planted pairs are kept, and twice as many of the kept ones are planted as chance would have it."""
    torch.manual_seed(0)
    selection = FieldSelection(log.sizes, dim=8, rank=16, lr=0.01, penalty_weight=0.1)
    search(log, selection, 300)
    result = recovery(selection, log.planted)
    assert result["pair_recall"] == 1.0
    assert result["pair_precision"] >= 2 * len(log.planted) / selection.pairs
