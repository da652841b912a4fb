"""Selection methods: the formulas of the published code, freezing, files."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import nn

from methods.optfeature.deepfm import FNN
from methods.optfeature.factorization_machines import FM, LR
from methods.optfeature.grda import GRDA
from methods.optfeature.pairs import pair_indices
from methods.optfeature.pnn import IPNN
from methods.optfeature.selection.autofis import AutoFIS
from methods.optfeature.selection.controls import MutualInformation, RandomPairs, pair_information
from methods.optfeature.selection.optfeature import FieldSelection, HybridSelection, ValueSelection
from methods.optfeature.selection.optfs import OptFS
from methods.optfeature.selection.optinter import DROP, FACTORISE, MEMORISE, OptInter, OptInterNetwork
from methods.optfeature.selection.profit import PROFIT

SIZES = (5, 3, 7, 4)
PAIRS = list(combinations(range(4), 2))
GRANULARITIES = [FieldSelection, ValueSelection, HybridSelection]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rows(count: int = 6) -> torch.Tensor:
    offsets = [0, 5, 8, 15]
    return torch.stack([torch.randint(o, o + s, (count,)) for o, s in zip(offsets, SIZES, strict=True)], dim=1)


def randomised(selection):
    for parameter in selection.parameters():
        nn.init.normal_(parameter)
    selection.set_trainable(frozen=False)
    return selection


def published_scores(selection, table_rows):
    """Pair-gather form of the published code: (g * u_i * u_j).sum(-1)."""
    u = selection.factors.linear(table_rows)
    first, second = pair_indices(4)
    return (selection.factors.core * u[:, first] * u[:, second]).sum(-1)


def test_scores_are_those_of_the_published_form():
    ids = rows()
    hybrid = randomised(HybridSelection(SIZES, dim=3, rank=8))
    by_value = published_scores(hybrid, hybrid.value_table.weight[ids])
    by_field = published_scores(hybrid, hybrid.field_table.weight.expand(6, 4, 3))
    share = torch.sigmoid(hybrid.alpha)
    torch.testing.assert_close(hybrid.scores(ids), share * by_value + (1 - share) * by_field)
    hybrid.freeze()
    hard = (hybrid.alpha > 0).float()
    torch.testing.assert_close(hybrid.scores(ids), hard * by_value + (1 - hard) * by_field)
    assert torch.equal(hybrid.gates(ids).pair, (hybrid.scores(ids) > 0).float())


def test_scores_are_symmetric_under_a_swap_of_fields():
    selection = randomised(ValueSelection((6, 6), dim=3, rank=8))
    ids = torch.randint(0, 12, (10, 2))
    torch.testing.assert_close(selection.scores(ids), selection.scores(ids.flip(1)))


def test_field_level_gates_are_those_of_no_row():
    selection = randomised(FieldSelection(SIZES, dim=3, rank=8))
    assert selection.gates(rows()).pair.shape == (1, 6)
    assert torch.equal(selection.gates(rows()).pair[0], selection.field_level())


def test_alpha_that_never_moved_gives_field_level():
    selection = randomised(HybridSelection(SIZES, dim=3, rank=8))
    selection.alpha.data.zero_()
    selection.freeze()
    field = published_scores(selection, selection.field_table.weight[None])
    assert torch.equal(selection.gates(rows()).pair, (field > 0).float().expand(6, 6))
    assert not selection.value_level_pairs().any()


def test_gradient_passes_the_threshold_unchanged():
    ids = rows()
    results = []
    for gate in (lambda s: s.gates(ids).pair, lambda s: s.scores(ids)):
        torch.manual_seed(1)
        selection = randomised(HybridSelection(SIZES, dim=3, rank=8))
        weights = torch.linspace(-1, 1, 36).view(6, 6)
        (gate(selection) * weights).sum().backward()
        results.append([parameter.grad for parameter in selection.parameters()])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)


def test_all_gates_are_open_at_the_start_unless_the_bias_is_zero():
    ids = rows(200)
    selection = HybridSelection((2000, 2000, 2000, 2000))
    assert float(selection.gates(ids).pair.mean()) == 1.0
    assert 1.5 < float(selection.scores(ids).mean()) < 4
    zero = HybridSelection(SIZES, bias_init="zeros")
    assert 0.2 < float(zero.gates(ids).pair.mean()) < 0.8
    with pytest.raises(ValueError, match="bias_init"):
        FieldSelection(SIZES, bias_init="ones")


def test_number_of_parameters():
    m, n, d, rank, pairs = sum(SIZES), 4, 16, 128, 6
    shared = d * rank + 2 * rank
    counts = [sum(p.numel() for p in cls(SIZES).parameters()) for cls in GRANULARITIES]
    assert counts == [n * d + shared, m * d + shared, m * d + n * d + shared + pairs]


def test_groups_of_the_optimizer():
    (optimizer,) = HybridSelection(SIZES, lr=0.1, weight_decay=0.2, alpha_lr=0.3).optimizers()
    selection, alpha = optimizer.param_groups
    assert (selection["lr"], selection["weight_decay"]) == (0.1, 0.2)
    assert (alpha["lr"], alpha["weight_decay"]) == (0.3, 0.0)
    assert [p.shape for p in alpha["params"]] == [(6,)]


def test_scores_stay_in_float32_under_autocast():
    selection = randomised(HybridSelection(SIZES, dim=3, rank=8))
    ids = rows()
    expected = selection.scores(ids)
    with torch.autocast("cpu", torch.bfloat16):
        scores = selection.scores(ids)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)


def test_penalty_closes_gates():
    selection = randomised(FieldSelection(SIZES, dim=3, rank=8, penalty_weight=0.5))
    selection.gates(rows())
    expected = 0.5 * selection.scores(rows()).sigmoid().mean()
    torch.testing.assert_close(selection.penalty(), expected)


@pytest.mark.parametrize("cls", [*GRANULARITIES, AutoFIS, partial(PROFIT, k=2), OptFS, OptInter])
def test_frozen_parameters_get_no_gradients(cls):
    selection = cls(SIZES)
    selection.freeze()
    trainable = [id(p) for p in selection.parameters() if p.requires_grad]
    assert trainable == [id(p) for p in selection.retrained_parameters()]
    assert bool(selection.frozen)


def test_grda_follows_the_recurrence():
    lr, c, mu = 0.5, 0.1, 0.8
    weight = nn.Parameter(torch.tensor([0.6, 0.6, -0.2]))
    gradients = [torch.tensor([0.1, 0.5, -0.1]), torch.tensor([-0.2, 0.3, 0.4]), torch.tensor([0.1, 0.0, -0.3])]
    optimizer = GRDA([weight], lr, c, mu)
    accumulator, threshold = [0.6, 0.6, -0.2], 0.0
    for t, gradient in enumerate(gradients):
        weight.grad = gradient.clone()
        optimizer.step()
        accumulator = [a - lr * float(g) for a, g in zip(accumulator, gradient, strict=True)]
        threshold += c * lr ** (0.5 + mu) * ((t + 1) ** mu - t**mu)
        expected = [(1 if a > 0 else -1) * max(abs(a) - threshold, 0) for a in accumulator]
        torch.testing.assert_close(weight.data, torch.tensor(expected))
    with pytest.raises(ValueError, match="mu"):
        GRDA([weight], mu=0.4)


def test_autofis_drops_pairs_of_gate_zero_and_restarts_the_others():
    selection = AutoFIS(SIZES)
    assert float(selection.gate.min()) >= 0.599
    assert float(selection.gate.max()) <= 0.601
    selection.gate.data[[1, 4]] = 0
    selection.freeze()
    expected = torch.full((6,), 0.6)
    expected[[1, 4]] = 0
    torch.testing.assert_close(selection.field_level(), expected)
    assert selection.retrained_parameters()[0].requires_grad


def test_profit_weights_and_its_best_pairs():
    selection = PROFIT(SIZES, k=2)
    nn.init.normal_(selection.first)
    nn.init.normal_(selection.second)
    a, b = selection.first[:, 0], selection.second[:, 0]
    expected = torch.stack([a[i] * b[j] + a[j] * b[i] for i, j in PAIRS])
    torch.testing.assert_close(selection.weights(), expected)
    selection.freeze()
    kept = selection.field_level()
    assert int((kept != 0).sum()) == 2
    assert torch.equal(kept[kept != 0], expected[kept != 0])
    assert float(expected[kept != 0].min()) >= float(expected[kept == 0].max())
    nn.init.ones_(selection.first)
    nn.init.ones_(selection.second)
    assert int((selection.field_level() != 0).sum()) == 6  # ties are kept together


def test_profit_search_equals_the_product_of_two_mixtures_without_its_diagonal():
    selection, network, ids = PROFIT(SIZES, k=2), FM(SIZES, 4), rows()
    e = network.embed(ids)
    a, b = selection.first, selection.second
    whole = ((a * e).sum(1) * (b * e).sum(1)).sum(1)
    diagonal = (a * b * e.square()).sum((1, 2))
    torch.testing.assert_close(network(ids, selection.gates(ids).pair), whole - diagonal)


def test_optfs_scale_temperature_and_penalty():
    selection, ids = OptFS(SIZES, temperature=100.0), rows()
    selection.begin_epoch(0, 5)
    torch.testing.assert_close(selection.gates(ids).value, torch.ones(6, 4))
    selection.begin_epoch(2, 5)
    assert selection.temperature == pytest.approx(10.0)
    nn.init.normal_(selection.weight.weight)
    weight = selection.weight.weight[ids].squeeze(-1)
    torch.testing.assert_close(
        selection.gates(ids).value, torch.sigmoid(10 * weight) / torch.sigmoid(torch.tensor(0.5))
    )
    expected = 5e-9 * torch.sigmoid(10 * selection.weight.weight).sum()
    torch.testing.assert_close(selection.penalty(), expected)
    selection.freeze()
    assert selection.gates(ids).value.unique().tolist() == pytest.approx([0.0, 1.6065], abs=1e-3)


def test_optinter_treats_each_pair_in_one_of_three_ways():
    network = OptInterNetwork(SIZES, 4, cross_values=1000, hidden=(8,))
    selection, ids = OptInter(SIZES), rows()
    selection.choice.data.zero_()
    for pair, treatment in enumerate((MEMORISE, FACTORISE, DROP, DROP, FACTORISE, MEMORISE)):
        selection.choice.data[pair, treatment] = 1
    selection.freeze()
    captured = []
    network.mlp.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    network(ids, selection.gates(ids).pair)
    blocks = captured[0][:, 16:].view(6, 6, 4)
    factors, crosses = network.factor_embedding(ids), network.cross_embedding(network.cross_ids(ids))
    torch.testing.assert_close(blocks[:, 0], crosses[:, 0])
    torch.testing.assert_close(blocks[:, 1], factors[:, 0] * factors[:, 2])
    assert not blocks[:, 2:4].any()
    assert selection.field_level().tolist() == [1, 1, 0, 0, 1, 1]
    selection.begin_step(10_000)
    assert selection.temperature == pytest.approx(0.5)
    selection.begin_step(10**6)
    assert selection.temperature == 0.01


def test_cross_ids_follow_the_pair_of_values():
    network = OptInterNetwork(SIZES, 4, cross_values=10**6, hidden=(8,))
    ids = torch.cartesian_prod(torch.arange(5), torch.arange(5, 8), torch.tensor([8]), torch.tensor([15]))
    assert len(network.cross_ids(ids)[:, 0].unique()) == 15
    assert len(network.cross_ids(ids)[:, 1].unique()) == 5


def test_random_pairs_follow_the_seed_and_the_ratio():
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        selection = RandomPairs((3,) * 10, kept_ratio=0.4)
        selection.prepare(None)
        masks.append(selection.field_level())
    assert int(masks[0].sum()) == 18
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    with pytest.raises(ValueError, match="kept_ratio"):
        RandomPairs(SIZES, kept_ratio=0.0)


def test_mutual_information_of_scikit_learn_with_the_correction():
    ids = rows(500)
    labels = ((ids[:, 0] + ids[:, 2]) % 2).float()
    information = pair_information(ids, labels, sum(SIZES))
    for k, (i, j) in enumerate(PAIRS):
        cell = ids[:, i] * 100 + ids[:, j]
        joint = len(torch.stack([cell, labels.long()], 1).unique(dim=0))
        correction = (len(cell.unique()) + 2 - joint - 1) / 1000
        assert float(information[k]) == pytest.approx(mutual_info_score(cell, labels) + correction, abs=1e-9)
    assert int(information.argmax()) == PAIRS.index((0, 2))


def test_mutual_information_keeps_the_pair_that_decides():
    class Data:
        from datasets.ctr.loader import Shard

        ids = rows(400)
        shards = {"train": [Shard(ids.int(), ((ids[:, 1] + ids[:, 3]) % 2).to(torch.uint8))]}  # noqa: RUF012

    selection = MutualInformation(SIZES, kept_ratio=0.1)
    selection.prepare(Data)
    assert selection.field_level().nonzero().flatten().tolist() == [PAIRS.index((1, 3))]


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (PROFIT, {"k": 7}, "k=7 is more than the 6 pairs"),
        (PROFIT, {"k": 0}, "k must be positive"),
        (PROFIT, {"weight_decay": -1.0}, "weight_decay must not be negative"),
        (FieldSelection, {"weight_decay": -1.0}, "weight_decay must not be negative"),
        (FieldSelection, {"penalty_weight": -1.0}, "penalty_weight must not be negative"),
        (OptFS, {"penalty_weight": -1.0}, "penalty_weight must not be negative"),
        (MutualInformation, {"rows": 0}, "rows must be positive"),
        (RandomPairs, {"kept_ratio": 0.0}, r"kept_ratio must lie in \(0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(cls, settings, message):
    with pytest.raises(ValueError, match=rf"method\.selection\.{message}"):
        cls(SIZES, **settings)


@pytest.mark.parametrize(
    ("cls", "network", "message"),
    [
        (HybridSelection, FNN(SIZES, 4, (8,)), "model=ipnn"),
        (OptInter, IPNN(SIZES, 4, (8,)), "model=optinter"),
        (OptFS, LR(SIZES), "choose another model"),
    ],
)
def test_a_network_without_the_gates_is_refused(cls, network, message):
    with pytest.raises(ValueError, match=message):
        cls(SIZES).check_network(network)


def test_a_file_of_other_data_is_refused(tmp_path):
    selection = randomised(HybridSelection(SIZES, dim=3, rank=8))
    selection.freeze()
    path = tmp_path / "selection.pt"
    selection.save(path, list("abcd"), "words")
    fresh = HybridSelection(SIZES, dim=3, rank=8)
    fresh.load(path, list("abcd"), "words")
    assert fresh.is_frozen
    ids = rows()
    assert torch.equal(fresh.gates(ids).pair, selection.gates(ids).pair)
    for cls, names, vocabulary, message in [
        (HybridSelection, list("abcd"), "others", "another vocabulary"),
        (HybridSelection, list("abce"), "words", "another fields"),
        (ValueSelection, list("abcd"), "words", "another method"),
    ]:
        with pytest.raises(ValueError, match=message):
            cls(SIZES, dim=3, rank=8).load(path, names, vocabulary)
    with pytest.raises(ValueError, match="does not exist"):
        fresh.load(tmp_path / "none.pt", [], "")
    with pytest.raises(ValueError, match=r"has factors.linear.weight of shape \(8, 3\), this run has \(8, 5\)"):
        HybridSelection(SIZES, dim=5, rank=8).load(path, list("abcd"), "words")
    for content in ([1, 2], {"state": 3}, {"weights": {}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"selection\.pt is no selection\.pt of a run"):
            fresh.load(path, list("abcd"), "words")
    for content in (b"junk", b"", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"selection\.pt is no selection\.pt of a run"):
            fresh.load(path, list("abcd"), "words")
