"""The networks for molecules against per-edge message passing of torch-geometric, their training and its metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from csv import DictReader

import pytest
import pytorch_lightning as pl
import torch
import torch_geometric.nn as pyg
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn
from torch.nn.functional import embedding
from torch_geometric.nn import MessagePassing

from datasets.graphs.molecules import ATOM_SIZES, BOND_SIZES, MolHIV, count_bonds
from datasets.graphs.store import GraphStore
from methods.graphnorm.molecules import MoleculeClassifier, MoleculeGCN, MoleculeGIN
from runner.config.address import Run
from runner.config.checks import check_tasks
from runner.config.compose import compose
from runner.config.grids import expand_sweep
from runner.config.place import CONF
from runner.errors import UserError

NETWORKS = {"gin": MoleculeGIN, "gcn": MoleculeGCN}


def random_molecules(num_graphs: int = 24, seed: int = 0) -> tuple[GraphStore, torch.Tensor, torch.Tensor]:
    """A store with random categories, its bonds (E, 2) and their categories (E, 3). The first graph has one node.

    A graph is of class 1 where its first atom has category 0 of the first feature.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 9, (num_graphs,), generator=generator)
    sizes[0] = 1
    first = sizes.cumsum(0) - sizes
    ends = [
        torch.combinations(torch.arange(start, start + size))[
            torch.rand(int(size * (size - 1) // 2), generator=generator) < 0.5
        ]
        for start, size in zip(first, sizes, strict=True)
    ]
    ends = torch.cat([pairs.view(-1, 2) for pairs in ends])
    category = torch.stack([torch.randint(n, (len(ends),), generator=generator) for n in BOND_SIZES], 1)
    x = torch.stack([torch.randint(n, (int(sizes.sum()),), generator=generator) for n in ATOM_SIZES], 1)
    y = torch.arange(num_graphs) % 2
    x[first, 0] = 1 - y
    store = GraphStore.from_edges(x, torch.cat([ends, ends.flip(1)]).T, sizes, y)
    store.bonds = count_bonds(ends, category, len(x))
    store.check()
    return store, ends, category


class PerEdge(MessagePassing):
    """h_v + the sum or mean of h_u + e_uv, a message an edge."""

    def forward(self, h, edge_index, edges):
        return h + self.propagate(edge_index, h=h, edges=edges)

    def message(self, h_j, edges):
        return h_j + edges


def reference(network, x, edge_index, category, batch):
    """The logits by torch-geometric, from the network's own parameters."""

    def norm(module, h):
        if isinstance(module.norm if hasattr(module, "norm") else None, nn.BatchNorm1d):
            return module.norm(h)
        other = pyg.GraphNorm(h.shape[1], eps=1e-6).to(h.dtype)
        other.weight, other.bias, other.mean_scale = module.weight, module.bias, module.mean_scale
        return other(h, batch)

    def tables(stacked, sizes):
        return stacked.split(sizes)

    h = sum(embedding(x[:, i], t) for i, t in enumerate(tables(network.atoms.tables, ATOM_SIZES)))
    for i, layer in enumerate(network.layers):
        edges = sum(embedding(category[:, k], t) for k, t in enumerate(tables(layer.bond_tables, BOND_SIZES)))
        z = PerEdge(aggr="mean" if isinstance(network, MoleculeGCN) else "sum")(h, edge_index, edges)
        update = layer.update
        if isinstance(network, MoleculeGCN):
            z = norm(update.norm, update.lin(z))
        else:
            z = norm(update.norm2, update.lin2(norm(update.norm1, update.lin1(z)).relu()))
        h = h + (z if i == len(network.layers) - 1 else z.relu())
    return network.classifier(pyg.global_mean_pool(h, batch)).squeeze(1)


@pytest.mark.parametrize("norm", ["graph", "instance", "batch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_counting_bonds_equals_a_message_for_each_edge(name, norm):
    store, ends, category = random_molecules()
    torch.manual_seed(0)
    network = NETWORKS[name](ATOM_SIZES, BOND_SIZES, hidden=16, layers=3, norm=norm, dropout=0.0).double()
    for key, parameter in network.named_parameters():
        if key.endswith(("weight", "bias")) or (key.endswith("mean_scale") and norm == "graph"):
            nn.init.normal_(parameter, 0.5, 0.3)
    graphs = store.select(torch.arange(len(store)))
    edge_index = torch.cat([ends, ends.flip(1)]).T
    ours = network(graphs)
    theirs = reference(network, store.x, edge_index, torch.cat([category, category]), graphs.batch)
    assert ours.shape == (len(store),)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)  # the neighbours' counts are float32

    parameters = {key: p for key, p in network.named_parameters() if p.requires_grad}
    weights = torch.randn(len(store), dtype=torch.float64)
    for key, a, b in zip(
        parameters,
        torch.autograd.grad((ours * weights).sum(), parameters.values()),
        torch.autograd.grad((theirs * weights).sum(), parameters.values()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")


def test_widths_and_parameters_are_those_of_the_paper():
    """4 layers of 300; GIN: 9 tables of 174 rows in all, per layer 13 rows, 300-600-300 and two norms; GCN: 300-300."""
    norms = {"graph": 3, "batch": 2, "none": 0}
    for norm, each in norms.items():
        gin, gcn = (cls(ATOM_SIZES, BOND_SIZES, norm=norm) for cls in (MoleculeGIN, MoleculeGCN))
        per_gin = 13 * 300 + 300 * 600 + 600 + 600 * 300 + 300 + each * 900
        per_gcn = 13 * 300 + 300 * 300 + 300 + each * 300
        assert sum(p.numel() for p in gin.parameters()) == 174 * 300 + 4 * per_gin + 301
        assert sum(p.numel() for p in gcn.parameters()) == 174 * 300 + 4 * per_gcn + 301


def test_every_table_is_xavier_uniform_by_itself():
    torch.manual_seed(0)
    network = MoleculeGIN(ATOM_SIZES, BOND_SIZES, hidden=300)
    tables = [*network.atoms.tables.split(ATOM_SIZES), *network.layers[0].bond_tables.split(BOND_SIZES)]
    for table, size in zip(tables, ATOM_SIZES + BOND_SIZES, strict=True):
        bound = (6 / (size + 300)) ** 0.5
        assert float(table.detach().abs().max()) == pytest.approx(bound, rel=0.02)
        assert float(table.detach().abs().max()) <= bound


def test_dropout_is_on_the_logit():
    store, _, _ = random_molecules()
    network = MoleculeGCN(ATOM_SIZES, BOND_SIZES, hidden=8, dropout=0.5, norm="none")
    graphs = store.select(torch.arange(len(store)))
    torch.manual_seed(0)
    kept = network(graphs) / network.eval()(graphs)
    assert {round(float(ratio), 3) for ratio in kept.detach()} == {0.0, 2.0}


@pytest.mark.parametrize("bad", [{"hidden": 0}, {"layers": 0}, {"norm": "nonsense"}])
def test_bad_arguments_of_the_network(bad):
    with pytest.raises(ValueError, match=r"model\."):
        MoleculeGIN(ATOM_SIZES, BOND_SIZES, **bad)


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"weight_decay": -1.0}])
def test_bad_arguments_of_the_training(bad):
    with pytest.raises(ValueError, match=r"method\."):
        MoleculeClassifier(nn.Identity(), **bad)


class Fixed(nn.Module):
    """Gives each graph the logit that it is told."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, graphs):
        return self.logits[graphs.x[:, 0].long()]


def numbered(labels: torch.Tensor, batch_size: int) -> MolHIV:
    """Graphs of one node each, numbered by their only feature, as the data module's validation and test part."""
    count = len(labels)
    x = torch.arange(count).unsqueeze(1)
    store = GraphStore.from_edges(x, torch.empty(2, 0, dtype=torch.long), torch.ones(count, dtype=torch.long), labels)
    return hold(store, batch_size)


def hold(store: GraphStore, batch_size: int) -> MolHIV:
    data = MolHIV(batch_size=batch_size)
    data.store, data.parts = store, dict.fromkeys(("train", "val", "test"), torch.arange(len(store)))
    return data


def trainer(**settings) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **(quiet | settings))


LOGITS = {
    "far apart": torch.linspace(-30, 30, 101)[torch.randperm(101, generator=torch.Generator().manual_seed(1))],
    "within 0..1 in the first batch": torch.cat([torch.rand(16), torch.randn(85) * 3 - 2]),
    "with ties": torch.randint(-3, 4, (101,)).float(),
    "all equal": torch.zeros(101),
}


@pytest.mark.parametrize("case", LOGITS)
def test_auc_and_loss_are_those_of_sklearn(case):
    logits = LOGITS[case]
    labels = (torch.rand(101, generator=torch.Generator().manual_seed(0)) < 0.3).long()
    found = trainer().test(MoleculeClassifier(Fixed(logits)), numbered(labels, 16), verbose=False)[0]
    assert found["test/auc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-6)
    assert found["test/loss"] == pytest.approx(log_loss(labels, logits.double().sigmoid()), rel=1e-4)


def test_training_finds_what_decides_the_class_and_the_rate_falls_to_zero():
    store, _, _ = random_molecules(64)
    torch.manual_seed(0)
    module = MoleculeClassifier(MoleculeGIN(ATOM_SIZES, BOND_SIZES, hidden=16, layers=2, dropout=0.1), lr=0.01)
    fit = trainer(max_epochs=20)
    fit.fit(module, hold(store, 16))
    assert float(fit.callback_metrics["val/auc"]) > 0.99
    assert float(fit.callback_metrics["val/loss"]) < float(torch.log(torch.tensor(2.0)))
    assert fit.optimizers[0].param_groups[0]["lr"] == 0


@pytest.mark.slow
def test_two_processes_do_what_one_does():
    """Gradients of the global batch, and the AUC over all molecules, though the processes' shares differ in size."""
    store, _, _ = random_molecules(45)
    found = []
    for settings in ({}, {"strategy": "ddp_fork", "devices": 2}):
        torch.manual_seed(0)
        # LayerNorm: a bias before GraphNorm has no gradient but rounding errors, of which Adam makes whole steps
        network = MoleculeGIN(ATOM_SIZES, BOND_SIZES, hidden=8, layers=2, norm="layer", dropout=0.0)
        fit = trainer(max_epochs=3, **settings)
        fit.fit(MoleculeClassifier(network, lr=0.01), hold(store, 8))
        found.append({key: float(value) for key, value in fit.callback_metrics.items()})
    assert found[0].keys() == found[1].keys() == {"train/loss", "val/loss", "val/auc"}
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.slow
def test_a_run_tests_the_weights_of_the_best_validation_epoch(tmp_path):
    pytest.importorskip("rdkit", reason="molecules need RDKit: pip install '.[chem]'")
    # 60 without a ring and two scaffolds of ten train, one validates, one tests
    ends = ["", "O", "N", "F", "Cl", "Br", "c1ccccc1", "c1ccncc1", "C1CCCC1", "C1CCCCC1"]
    table = "".join(f"{'C' * i}{end},{i % 2}\n" for end in ends for i in range(1, 11))
    (tmp_path / "HIV.csv").write_text("smiles,HIV_active\n" + table)
    command = "method=graphnorm/molhiv_gcn dataset.expect.graphs=100 model.hidden=8 schedule.max_epochs=4 logger=csv"
    where = [f"paths.data={tmp_path}", f"paths.outputs={tmp_path}/outputs"]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *command.split(), *where], cwd=CONF.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in tmp_path.rglob("result.json"))
    assert {"test/auc", "test/loss"} <= json.loads((folder / "result.json").read_text())["metrics"].keys()
    with open(folder / "metrics.csv") as file:
        rows = list(DictReader(file))
    best = max(rows, key=lambda row: float(row["val/auc"]))
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == int(best["epoch"])


def test_molecules_and_collections_do_not_mix():
    with pytest.raises(UserError, match="Data sets that fit the method: molhiv"):
        check_tasks(compose(["method=graphnorm/molhiv", "dataset=mutag"]))


def test_the_table_has_ten_seeds_of_both_networks_under_four_norms():
    sweep = expand_sweep(compose(["experiment=graphnorm/table1_molhiv"]), ["experiment=graphnorm/table1_molhiv"])
    assert len({tuple(overrides) for overrides in sweep}) == 2 * 4 * 10
    assert {override for run in sweep for override in run if override.startswith("seed=")} == {
        f"seed={seed}" for seed in range(1, 11)
    }
    runs = [Run.compose(overrides) for overrides in sweep if "seed=1" in overrides]
    paper = {"molgin": (128, 25), "molgcn": (64, 50)}
    for run in runs:
        assert (run.cfg.dataset.batch_size, run.cfg.schedule.max_epochs) == paper[run.choices["model"]]
        assert (run.cfg.method.lr, run.cfg.method.weight_decay, run.cfg.model.dropout) == (1e-4, 0, 0.5)
    cells = {(run.choices["model"], run.cfg.model.norm) for run in runs}
    assert cells == {(model, norm) for model in paper for norm in ("graph", "batch", "instance", "layer")}
