"""Time GraphNorm's training: this project beside plain torch-geometric, the runner's Trainer beside Lightning's.

    python -m scripts.bench_graphnorm [PROTEINS|MUTAG|NCI1|atlas] [--repeats 5] [--epochs 5] [--threads 1]

The two sides take turns, so that other load on the machine hits both alike; medians over the repeats are printed.
Times are by the clock; "processor" is the processor time of this process, which other load disturbs least.
Without an argument: PROTEINS if RUNNER_DATA has it, else the embedded atlas.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, global_add_pool
from torch_geometric.nn import GraphNorm as PyGGraphNorm

from datasets.graphs.store import GraphLoader, GraphStore
from methods.graphnorm.networks import GIN
from runner.config.address import Run
from runner.execution.trainer import make_trainer, run_log
from scripts.arguments import positive

BATCH_SIZE, HIDDEN, LAYERS = 128, 64, 4
PARTS = ("loading", "forward", "backward+step", "all", "all, processor")


class PlainGIN(nn.Module):
    """The same network from torch-geometric's parts: GINConv, GraphNorm, residual, sum of the nodes.

    Args:
        in_channels: number of node features.
        out_channels: number of classes.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widths = [in_channels] + [HIDDEN] * LAYERS
        self.convs = nn.ModuleList(GINConv(nn.Linear(width, HIDDEN), eps=1.0) for width in widths[:-1])
        self.inner = nn.ModuleList(PyGGraphNorm(HIDDEN, eps=1e-6) for _ in range(LAYERS))
        self.lin2 = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(LAYERS))
        self.outer = nn.ModuleList(PyGGraphNorm(HIDDEN, eps=1e-6) for _ in range(LAYERS))
        self.classifier = nn.Linear(HIDDEN, out_channels)

    def forward(self, data: Data) -> Tensor:
        """Return the logits of a batch."""
        h, batch, graphs = data.x, data.batch, data.num_graphs
        for i in range(LAYERS):
            z = relu(self.inner[i](self.convs[i](h, data.edge_index), batch, graphs))
            z = relu(self.outer[i](self.lin2[i](z), batch, graphs))
            h = z + h if i else z
        return self.classifier(global_add_pool(h, batch, graphs))

    def copy(self, ours: Any) -> None:
        """Copy the weights of a GIN of this project."""
        convs: Any = self.convs
        for i, layer in enumerate(ours.layers):
            convs[i].nn.load_state_dict(layer.lin1.state_dict())
            self.inner[i].load_state_dict(layer.norm.state_dict())
            self.lin2[i].load_state_dict(layer.lin2.state_dict())
            self.outer[i].load_state_dict(ours.norms[i].state_dict())
        self.classifier.load_state_dict(ours.classifiers[0].state_dict())


def as_data(store: GraphStore) -> list[Data]:
    """Return the collection as torch-geometric stores it."""
    graphs = (store.select(torch.tensor([i])) for i in range(len(store)))
    return [Data(x=g.x, edge_index=g.adj.to_sparse_coo().indices(), y=g.y) for g in graphs]


def epoch(loader: Any, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Train for an epoch and return seconds: loading, forward with loss, backward with step, all, processor time."""
    seconds, computed = [0.0, 0.0, 0.0], time.process_time()
    batches, start = iter(loader), time.perf_counter()
    while (batch := next(batches, None)) is not None:
        loaded = time.perf_counter()
        loss = cross_entropy(network(batch), batch.y)
        forwarded = time.perf_counter()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for i, taken in enumerate((loaded - start, forwarded - loaded, time.perf_counter() - forwarded)):
            seconds[i] += taken
        start = time.perf_counter()
    return [*seconds, sum(seconds), time.process_time() - computed]


def compare_with_pyg(store: GraphStore, repeats: int) -> None:
    """Time a training pass of this project and of torch-geometric, and print part (a).

    The program ends if the two networks differ in loss or gradient.
    """
    torch.manual_seed(0)
    ours = GIN(store.num_features, int(store.y.max()) + 1, HIDDEN, LAYERS, dropout=0.0)
    plain = PlainGIN(store.num_features, int(store.y.max()) + 1)
    plain.copy(ours)
    data = as_data(store)
    our_loader = GraphLoader(store, torch.arange(len(store)), BATCH_SIZE, shuffle=True)
    loaders = {"ours": our_loader, "PyG": DataLoader(data, BATCH_SIZE, shuffle=True)}
    networks = {"ours": ours, "PyG": plain}

    index = torch.arange(0, len(store), max(1, len(store) // BATCH_SIZE))
    batches = {"ours": store.select(index), "PyG": next(iter(DataLoader([data[i] for i in index], len(index))))}
    losses = {name: cross_entropy(networks[name](batches[name]), batches[name].y) for name in networks}
    weights: dict[str, Any] = {"ours": ours.layers[0].lin1, "PyG": plain.convs[0].nn}
    grads = [torch.autograd.grad(losses[name], layer.weight)[0] for name, layer in weights.items()]
    error = ((grads[0] - grads[1]).norm() / grads[1].norm()).item()
    print(f"  same batch: loss ours {losses['ours']:.6f}, PyG {losses['PyG']:.6f}; gradients differ by {error:.1e}")
    if abs(losses["ours"] - losses["PyG"]) > 1e-3 * abs(losses["PyG"]) or error > 1e-2:
        sys.exit("  the two networks are not the same: nothing to compare")

    optimizers = {  # ours as in GraphClassifier
        name: torch.optim.Adam(network.parameters(), lr=0.001, foreach=name == "ours")
        for name, network in networks.items()
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in networks}
    for repeat in range(repeats + 1):
        our_loader.set_epoch(repeat)
        for name in sorted(networks, reverse=repeat % 2 == 1):
            taken = epoch(loaders[name], networks[name], optimizers[name])
            if repeat:  # the first warms up
                seconds[name].append(taken)
    print(f"  {'seconds an epoch':<18}{'ours':>9}{'PyG':>9}{'PyG/ours':>10}")
    columns = {name: list(zip(*rows, strict=True)) for name, rows in seconds.items()}
    for part, mine, other in zip(PARTS, columns["ours"], columns["PyG"], strict=True):
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        print(
            f"  {part:<18}{statistics.median(mine):9.4f}{statistics.median(other):9.4f}"
            f"{statistics.median(ratios):10.2f}   {spread(ratios)}"
        )
    print(f"  {'least, processor':<18}{min(mine):9.4f}{min(other):9.4f}{min(other) / min(mine):10.2f}")


def spread(ratios: list[float]) -> str:
    """Return the range of the ratios as text."""
    return f"({min(ratios):.2f} to {max(ratios):.2f})"


def overrides(name: str, folder: str, epochs: int) -> list[str]:
    """Return the overrides of a run on a collection."""
    dataset = name.lower().replace("-", "_")
    where = [f"paths.outputs={folder}", "logger=csv", f"schedule.max_epochs={epochs}"]
    return ["method=graphnorm", f"dataset={dataset}", "dataset.batch_size=128", *where]


def fits(name: str, folder: str, epochs: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield two functions that fit the same new module on the same data: by the runner's Trainer and by a bare one."""
    run = Run.compose(overrides(name, folder, epochs))
    run.folder.mkdir(parents=True, exist_ok=True)
    cfg = run.cfg
    data = instantiate(cfg.dataset, root=cfg.paths.data, seed=cfg.seed, workers=0)
    data.setup()
    for who in ("runner", "bare"):
        pl.seed_everything(cfg.seed, verbose=False)
        module = instantiate(cfg.method, _partial_=True)(network=instantiate(cfg.model, **data.dims))
        if who == "runner":
            trainer, _ = make_trainer(run, module, None)
        else:
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=epochs,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
        yield who, partial(trainer.fit, module, data)


def compare_with_lightning(name: str, repeats: int, epochs: int) -> None:
    """Time fits of the runner's Trainer and of a bare one, and print part (b)."""
    seconds: dict[str, list[tuple[float, float]]] = {"runner": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder, run_log(Path(folder)):
        for repeat in range(repeats + 1):
            for who, fit in sorted(fits(name, folder, epochs), reverse=repeat % 2 == 1):
                start, computed = time.perf_counter(), time.process_time()
                fit()
                if repeat:
                    taken = time.perf_counter() - start, time.process_time() - computed
                    seconds[who].append((taken[0] / epochs, taken[1] / epochs))
    print(f"  {'seconds an epoch':<18}{'runner':>9}{'bare':>9}{'overhead':>10}")
    for i, part in enumerate(PARTS[-2:]):
        runner, bare = ([taken[i] for taken in seconds[who]] for who in ("runner", "bare"))
        ratios = [a / b for a, b in zip(runner, bare, strict=True)]
        print(
            f"  {part:<18}{statistics.median(runner):9.4f}{statistics.median(bare):9.4f}"
            f"{100 * (statistics.median(ratios) - 1):+9.1f}%   {spread(ratios)}"
        )
    print(f"  {'least, processor':<18}{min(runner):9.4f}{min(bare):9.4f}{100 * (min(runner) / min(bare) - 1):+9.1f}%")


def read(name: str) -> GraphStore:
    """Read a collection by its name."""
    data = instantiate(
        Run.compose(overrides(name, "unused", 1)).cfg.dataset, root=os.environ.get("RUNNER_DATA", "data")
    )
    data.setup()
    return data.store


def main() -> None:
    """Print parts (a) and (b)."""
    has_proteins = Path(os.environ.get("RUNNER_DATA", "data"), "TUDataset", "PROTEINS").exists()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", default="PROTEINS" if has_proteins else "atlas")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--epochs", type=positive, default=5, help="of each fit of (b)")
    parser.add_argument("--threads", type=positive, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)

    store = read(arguments.dataset)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{arguments.dataset}: {len(store)} graphs, batches of {BATCH_SIZE}, GIN {LAYERS} x {HIDDEN}, "
        f"{arguments.threads} thread(s), {os.cpu_count()} cores with load {load}, "
        f"medians of {arguments.repeats} repeats taken in turn"
    )
    print(
        "(a) training passes: our GraphLoader, GIN and GraphNorm; torch-geometric's DataLoader, GINConv and GraphNorm"
    )
    compare_with_pyg(store, arguments.repeats)
    print(f"(b) fits of {arguments.epochs} epochs with validation: the runner's Trainer; Lightning's without callbacks")
    compare_with_lightning(arguments.dataset, arguments.repeats, arguments.epochs)


if __name__ == "__main__":
    main()
