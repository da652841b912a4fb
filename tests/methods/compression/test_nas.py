"""Architecture searches: gradients, genotypes, evolution on a table, elastic networks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from methods.compression.nas.chain_space import SKIP, ChainSpace, seeded_network
from methods.compression.nas.darts import Darts, endless, halves, second_order_gradient, skips
from methods.compression.nas.darts_network import EDGES, Genotype, SearchNetwork, parse_genotype, plan
from methods.compression.nas.darts_ops import OPERATIONS, make_operation
from methods.compression.nas.evolution import EvolutionarySearch, nsga2, regularized_evolution
from methods.compression.nas.latency_table import LatencyTable, key_of, measure_table
from methods.compression.nas.once_for_all import ElasticNetwork, ElasticSpace, OnceForAll
from methods.compression.nas.path_gates import (
    GatedNetwork,
    PathGateSearch,
    alpha_gradients,
    expected_latency,
    gate_gradient,
    latency_loss,
)
from methods.compression.stage import Context
from methods.compression.training import Recipe, TrainingState
from tests.methods.compression.problems import ONE, context, dense, digits


class Toy(nn.Module):
    """Two operations on a number: the loss is smooth in weights and architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.double))
        self.alphas = nn.ParameterList([nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.double))])

    def weights(self) -> list[nn.Parameter]:
        return [self.w]

    def forward(self, x: Tensor) -> Tensor:
        p = torch.softmax(self.alphas[0], 0)
        return p[0] * torch.tanh(self.w[0] * x) + p[1] * self.w[1] * x**2


def toy_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (network(batch[0]) - batch[1]).square().mean()


def test_the_second_order_gradient_is_that_of_the_unrolled_step():
    network = Toy()
    x = torch.linspace(-1, 1, 9, dtype=torch.double)
    train, val, lr, decay, factor = (x, torch.sin(2 * x)), (x + 0.1, torch.cos(x)), 0.2, 3e-3, 0.9
    momentum = torch.tensor([0.05, -0.02], dtype=torch.double)
    (found,) = second_order_gradient(network, train, val, lr, [momentum], factor, decay, toy_loss)

    def outer(alpha: Tensor) -> float:
        probe = Toy()
        probe.load_state_dict(network.state_dict())
        with torch.no_grad():
            probe.alphas[0].copy_(alpha)
        (g,) = torch.autograd.grad(toy_loss(probe, train), [probe.w])
        with torch.no_grad():
            probe.w.sub_(lr * (factor * momentum + g + decay * probe.w))
        return float(toy_loss(probe, val).detach())

    alpha = network.alphas[0].detach()
    for i in range(2):
        shift = torch.zeros(2, dtype=torch.double)
        shift[i] = 1e-5
        expected = (outer(alpha + shift) - outer(alpha - shift)) / 2e-5
        assert float(found[i]) == pytest.approx(expected, rel=1e-3)


def test_genotypes_keep_the_two_strongest_edges_without_none():
    alphas = torch.zeros(EDGES, len(OPERATIONS))
    alphas[:, OPERATIONS.index("none")] = 9.0  # never chosen
    alphas[2, OPERATIONS.index("sep_conv_3x3")] = 5.0
    alphas[4, OPERATIONS.index("max_pool_3x3")] = 4.0
    alphas[:, 0] = 0.0
    pairs = parse_genotype(alphas)
    assert pairs[2:4] == [("sep_conv_3x3", 0), ("max_pool_3x3", 2)]
    assert len(pairs) == 8
    assert all(name != "none" for name, _ in pairs)
    assert skips(Genotype([("skip_connect", 0)] * 3 + [("sep_conv_3x3", 1)] * 5, pairs)) == 3


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_channels_and_halve_at_stride_2(name, stride):
    out = make_operation(name, 4, stride, False, True)(torch.rand(2, 4, 8, 8))
    assert out.shape == (2, 4, 8 // stride, 8 // stride)


def test_reductions_lie_at_a_third_and_two_thirds():
    assert [i for i, (_, reduction) in enumerate(plan(20, 36)) if reduction] == [6, 13]
    network = SearchNetwork(2, 3, **digits().dims)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert {id(p) for p in network.weights()}.isdisjoint({id(a) for a in network.alphas})


@pytest.mark.slow
def test_darts_moves_the_architecture_and_returns_a_network():
    surroundings = context()
    stage = Darts("second", 2, 1, Recipe(1, 0.025), alpha_lr=0.01, channels=2, layers=1, recipe=ONE)
    network = stage(dense(), surroundings)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert surroundings.numbers["alpha_moved"] > 0.015
    assert set(surroundings.drawings) == {"cell_normal", "cell_reduce"}
    assert surroundings.drawings["cell_normal"]() is not None


def test_gate_gradients_are_the_jacobian_of_the_softmax():
    alpha, by_gate = torch.randn(5), torch.randn(5)
    jacobian = torch.autograd.functional.jacobian(lambda a: torch.softmax(a, 0), alpha)
    torch.testing.assert_close(gate_gradient(by_gate, torch.softmax(alpha, 0)), jacobian.T @ by_gate)


def test_the_expected_latency_is_linear_in_the_probabilities():
    f = [torch.tensor([1.0, 3.0])]
    half = expected_latency([torch.tensor([0.5, 0.5])], f)
    assert float(half) == 2.0
    assert float(latency_loss(torch.tensor(1.0), half, 1.0, "add", 0.1, 0.0)) == pytest.approx(1.1)
    product = latency_loss(torch.tensor(2.0), half, 1.0, "multiply", 0.2, 0.3)
    assert float(product) == pytest.approx(2 * 0.2 * (math.log(2000) / math.log(1000)) ** 0.3)


SPACE = ChainSpace([4, 8], 2, [3, 5], [2, 3])


def table_of(space: ChainSpace, size: int) -> LatencyTable:
    costs = {}
    for place in space.places(size):
        for op in space.operations:
            costs[key_of(op, place)] = float(op[1]) * float(op[3]) * place.width / 100
    return LatencyTable(costs, rest=0.5)


def test_alpha_gradients_push_towards_fast_operations_when_latency_is_all():
    network = GatedNetwork(SPACE, digits().dims)
    table = table_of(SPACE, 8)
    latencies = [
        torch.tensor([table[key_of(n, p)] for n in names])
        for names, p in zip(network.names, network.places, strict=True)
    ]
    network.draw()
    batch = next(iter(digits().train_dataloader()))
    gradients = alpha_gradients(network, batch, latencies, 1.0, "add", 1e4, 0.0)
    for gradient, latency in zip(gradients, latencies, strict=True):
        assert int(gradient.argmax()) == int(latency.argmax())
        assert int(gradient.argmin()) == int(latency.argmin())


def test_a_latency_table_is_kept_and_predicts_a_sum(tmp_path):
    space = ChainSpace([4], 1, [3], [2])
    table = measure_table(space, digits().dims, repeats=3, block_seconds=0.001)
    assert all(value >= 0 for value in table.blocks.values())
    table.save(tmp_path / "lut.json")
    assert LatencyTable.load(tmp_path / "lut.json").blocks == table.blocks
    made = table_of(SPACE, 8)
    parts = [made[key_of(o, p)] for o, p in zip(("k3e2", SKIP, "k5e3", SKIP), SPACE.places(8), strict=True)]
    assert made.predict(SPACE, ("k3e2", SKIP, "k5e3", SKIP), 8) == pytest.approx(0.5 + sum(parts))
    LatencyTable({}, host={"machine": "other"}).save(tmp_path / "other.json")
    with pytest.raises(ValueError, match="measured elsewhere"):
        LatencyTable.load(tmp_path / "other.json")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        LatencyTable.load(tmp_path / "torn.json")


Cells = tuple[int, ...]


def benchmark(seed: int) -> dict[Cells, float]:
    """15,625 cells (6 edges, 5 operations) with additive effects of edges and of pairs, and noise."""
    rng = random.Random(seed)
    edges = [[rng.gauss(0, 1) for _ in range(5)] for _ in range(6)]
    pairs = [[[rng.gauss(0, 0.5) for _ in range(5)] for _ in range(5)] for _ in range(5)]

    def value(cell: Sequence[int]) -> float:
        single = sum(edges[i][op] for i, op in enumerate(cell))
        return single + sum(pairs[i][cell[i]][cell[i + 1]] for i in range(5)) + rng.gauss(0, 0.1)

    table: dict[Cells, float] = {}
    for number in range(5**6):
        cell = tuple(number // 5**i % 5 for i in range(6))
        table[cell] = value(cell)
    return table


def test_evolution_beats_random_search_on_a_table_and_forgets_the_oldest():
    def draw(rng: random.Random) -> Cells:
        return tuple(rng.randrange(5) for _ in range(6))

    def mutate(cell: Cells, rng: random.Random) -> Cells:
        i = rng.randrange(6)
        return (*cell[:i], rng.choice([op for op in range(5) if op != cell[i]]), *cell[i + 1 :])

    table, wins = benchmark(0), 0
    for seed in range(20):
        options = {"budget": 200, "sample": 3, "seed": seed}
        evolved = regularized_evolution(draw, mutate, table.__getitem__, population=10, **options)
        random_best = max(
            v for _, v in regularized_evolution(draw, mutate, table.__getitem__, population=200, **options)
        )
        assert len(evolved) == 200
        wins += max(v for _, v in evolved) >= random_best
    assert wins >= 15
    bounded = regularized_evolution(
        draw, mutate, table.__getitem__, budget=50, population=5, sample=2, allowed=lambda c: sum(c) <= 8
    )
    assert all(sum(cell) <= 8 for cell, _ in bounded)
    with pytest.raises(ValueError, match="meets the constraint"):
        regularized_evolution(draw, mutate, table.__getitem__, budget=5, allowed=lambda c: False, attempts=9)


def test_nsga2_returns_a_pareto_front():
    pytest.importorskip("optuna")
    table = table_of(SPACE, 8)

    def evaluate(a: tuple[str, ...]) -> tuple[float, float]:
        return sum(int(op[1]) for op in a if op != SKIP) / 20, table.predict(SPACE, a, 8)

    front = nsga2(SPACE, 8, evaluate, budget=40, population=10)
    for _, acc, ms in front:
        assert not any(a >= acc and m <= ms and (a, m) != (acc, ms) for _, a, m in front)


def test_mutations_change_one_block_within_the_space():
    rng = random.Random(0)
    architecture = SPACE.random(rng, 8)
    for _ in range(20):
        other = SPACE.mutate(architecture, rng, 8)
        assert sum(a != b for a, b in zip(architecture, other, strict=True)) == 1
        assert all(op in SPACE.choices(p) for op, p in zip(other, SPACE.places(8), strict=True))
    assert not SPACE.places(8)[2].can_skip
    assert seeded_network(SPACE, architecture, 0, digits().dims)(torch.rand(1, 1, 8, 8)).shape == (1, 10)


def test_a_part_of_an_elastic_network_by_itself_computes_the_same():
    torch.manual_seed(0)
    network = ElasticNetwork(SPACE, digits().dims)
    for block in network.blocks:
        for transform in block.transforms.values():
            nn.init.normal_(transform, std=0.3)
    network.eval()
    x, space = torch.rand(3, 1, 8, 8), ElasticSpace(SPACE, 1, 3)
    for seed in range(4):
        part = space.draw(random.Random(seed))
        network.architecture = list(part)
        torch.testing.assert_close(network.extract(part, SPACE, digits().dims).eval()(x), network(x))


def test_phases_of_shrinking_free_one_choice_after_another():
    drawn = {phase: {ElasticSpace(SPACE, 1, phase).draw(random.Random(s)) for s in range(40)} for phase in range(4)}
    assert drawn[0] == {("k5e3",) * 4}
    assert {op for part in drawn[1] for op in part} == {"k5e3", "k3e3"}
    assert SKIP in {op for part in drawn[2] for op in part}
    assert "k3e2" in {op for part in drawn[3] for op in part}
    assert all(part[0] != SKIP and part[2] != SKIP for part in drawn[3])


class Stop(Exception):
    """Stands for a kill."""


def stopped_and_resumed(monkeypatch, search, folder) -> dict[str, float]:
    """Numbers of a search that is stopped after its second epoch, and goes on."""
    save, saved = TrainingState.save, []

    def save_and_stop(self: TrainingState, epoch: int, epochs: int) -> None:
        self.every_seconds = 0.0
        save(self, epoch, epochs)
        saved.append(epoch)
        if saved == [1, 2]:
            raise Stop

    monkeypatch.setattr(TrainingState, "save", save_and_stop)
    with pytest.raises(Stop):
        search(context(folder=folder))
    resumed = context(folder=folder)
    search(resumed)
    assert saved == [1, 2, 3]
    return resumed.numbers


@pytest.mark.parametrize("name", ["gates", pytest.param("darts", marks=pytest.mark.slow)])
def test_a_search_goes_on_where_it_was_stopped(tmp_path, monkeypatch, name):
    gates = PathGateSearch(space=SPACE, warmup_epochs=1, every=2, alpha_lr=0.1, search_recipe=Recipe(2, 0.02))
    darts = Darts("first", 2, 1, Recipe(3, 0.025), alpha_lr=0.01)
    table = table_of(SPACE, 8)
    search = {"gates": lambda ctx: gates.search(table, ctx), "darts": darts.search}[name]
    whole = context()
    search(whole)
    assert stopped_and_resumed(monkeypatch, search, tmp_path) == whole.numbers


@pytest.mark.slow
def test_what_a_search_found_is_kept_until_its_network_is_trained(tmp_path, monkeypatch):
    space = ChainSpace([4], 2, [3], [2])
    stage = EvolutionarySearch(budget=3, population=2, sample=1, space=space, proxy_recipe=ONE, recipe=ONE)
    first, labels, train = context(folder=tmp_path), [], Context.train

    def record(self: Context, network: nn.Module, recipe: Recipe, **options) -> nn.Module:
        labels.append(options.get("label", "final"))
        return train(self, network, recipe, **options)

    monkeypatch.setattr(Context, "train", record)
    stage(dense(), first)
    assert labels[-1] == "final"
    candidates = len(labels) - 1
    assert candidates == first.numbers["evaluated"]
    table = LatencyTable.load(tmp_path / "lut.json")
    LatencyTable(table.blocks, table.rest, {"machine": "other"}).save(tmp_path / "lut.json")
    again = context(folder=tmp_path)
    stage(dense(), again)
    assert labels[candidates + 1 :] == ["final"]
    assert again.numbers["predicted_ms"] == first.numbers["predicted_ms"]

    gates = PathGateSearch(space=space, search_recipe=ONE, recipe=ONE)
    monkeypatch.setattr(PathGateSearch, "search", lambda self, table, ctx: ("k3e2", SKIP))
    gates(dense(), context(folder=tmp_path / "gates"))
    monkeypatch.setattr(PathGateSearch, "search", lambda self, table, ctx: pytest.fail("searched again"))
    network = gates(dense(), context(folder=tmp_path / "gates"))
    assert network.architecture == ["k3e2", SKIP]


def test_validation_batches_go_on_in_another_order():
    loader = halves(context())[1]
    batches = [batch.y.tolist() for batch in islice(endless(loader), 2 * len(loader))]
    assert batches[: len(loader)] != batches[len(loader) :]
    rest = [batch.y.tolist() for batch in islice(endless(loader, len(loader) + 1), len(loader) - 1)]
    assert rest == batches[len(loader) + 1 :]


def test_rates_of_the_search_by_gates_begin_anew_after_the_warm_up():
    stage = PathGateSearch(warmup_epochs=4, search_recipe=Recipe(10, 0.025))
    assert stage.rate(0) == 0.05
    assert stage.rate(2) == pytest.approx(0.025)
    assert stage.rate(4) == 0.025
    assert stage.rate(13) < 0.001


@pytest.mark.slow
def test_searches_return_trained_networks():
    space = ChainSpace([4, 8], 1, [3, 5], [2])
    stages = [
        PathGateSearch(space=SPACE, warmup_epochs=0, every=1, search_recipe=ONE, recipe=ONE),
        EvolutionarySearch(
            budget=3, population=2, sample=1, latency_share=1.0, space=space, proxy_recipe=ONE, recipe=ONE
        ),
        OnceForAll(SPACE, 1, ONE, ONE, budget=2, population=2, macs_share=0.9, bn_recal_batches=2),
    ]
    for stage in stages:
        network = stage(dense(), context())
        assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChainSpace(kernels=[4]), "odd"),
        (lambda: ChainSpace(widths=[]), "needs widths"),
        (lambda: Darts("third"), "order=third"),
        (lambda: EvolutionarySearch("none"), "engine=none"),
        (lambda: OnceForAll(min_depth=9), "min_depth=9"),
        (lambda: PathGateSearch("minus"), "loss=minus"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
