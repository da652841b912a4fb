"""Measure the speed of click-through-rate models and of their data layer.

    python -m scripts.bench_ctr step [--batch 4096] [--repeats 3] [--rank 128]
    python -m scripts.bench_ctr models [--batch 4096] [--repeats 5]
    python -m scripts.bench_ctr data FILE [--folder DIR] [--workers 1] [--train] [--fuxictr FOLDER]

step: a training step of OptFeature hybrid at Criteo's sizes (39 fields, d 16, rank 128, perceptron 1024-512-256) in the
form of batched products, and in the form of the published code, which gathers the vectors of each pair; seconds and
peak memory, each in a process of its own. models: training steps of IPNN and DeepFM against the same models from the
layers of FuxiCTR, where that is installed. data: preparation of a file of Criteo's layout, an epoch of the loader and,
with --train, one of training; `python -m scripts.prepare_ctr generate FILE` writes such a file. With --fuxictr, then
also FuxiCTR's preparation and loader of that file, from a folder that it was installed into (scripts/bench_fuxictr.py).
One thread; contestants take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from datasets.ctr.loader import CTRBatch
from datasets.progress import track
from methods.optfeature.deepfm import DeepFM
from methods.optfeature.factorization_machines import FM
from methods.optfeature.metrics import auc
from methods.optfeature.network import CTRNetwork
from methods.optfeature.pairs import pair_indices
from methods.optfeature.pnn import IPNN
from methods.optfeature.selection.optfeature import HybridSelection, SymmetricFactors
from scripts.arguments import positive

FIELDS, VALUES = 39, 2000  # values of each field; tables of Criteo's size would only add the same work to both sides


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, repeats in (("step", 3), ("models", 5)):
        sub = commands.add_parser(command)
        sub.add_argument("--batch", type=positive, default=4096)
        sub.add_argument("--repeats", type=positive, default=repeats)
        if command == "step":
            sub.add_argument("--rank", type=positive, default=128)
            sub.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    sub = commands.add_parser("data")
    sub.add_argument("file", type=Path)
    sub.add_argument("--folder", type=Path)
    sub.add_argument("--workers", type=positive, default=1)
    sub.add_argument("--train", action="store_true", help="also train a factorization machine for an epoch")
    sub.add_argument("--fuxictr", type=Path, help="folder that FuxiCTR was installed into, to compare with")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    {"step": bench_step, "models": bench_models, "data": bench_data}[given.command](given)


def median_seconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median seconds of a call by the clock and by the processor, after one call that is not measured.

    Args:
        function: function to measure.
        repeats: number of measured calls.
    """
    function()
    clock, processor = [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        function()
        clock.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    return statistics.median(clock), statistics.median(processor)


def peak_gib(workers: int = 0) -> float:
    """Return the peak resident memory in GiB, at most: of this process and of as many of its ended ones.

    Args:
        workers: number of processes that ran at a time; the largest of them is counted for each.
    """
    own, largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + workers * largest) / 2**20


# ---- a step of OptFeature ----


class GatheredFactors(SymmetricFactors):
    """Pair scores in the form of the published code: the vectors of each pair are gathered, (B, P, R) each."""

    def forward(self, rows: Tensor, flat_pairs: Tensor) -> Tensor:
        """Return the score of each pair, (B, P)."""
        vectors = self.linear(rows)
        first, second = pair_indices(rows.shape[1])
        return (self.core * (vectors[:, first] * vectors[:, second])).sum(-1)


class GatheredHybrid(HybridSelection):
    """OptFeature hybrid as published: the field level is computed for each row too."""

    def __init__(self, field_sizes: Sequence[int], dim: int = 16, rank: int = 128) -> None:
        super().__init__(field_sizes, dim, rank=rank)
        self.factors = GatheredFactors(dim, rank)

    def scores(self, ids: Tensor) -> Tensor:
        """Return the mixed scores, (B, P)."""
        fields = self.field_table.weight.expand(len(ids), -1, -1)
        share = self.alpha.sigmoid()
        by_value = self.factors(self.value_table(ids), self.flat_pairs)
        return share * by_value + (1 - share) * self.factors(fields, self.flat_pairs)


class GatheredIPNN(IPNN):
    """IPNN whose inner products gather the embeddings of each pair, as published."""

    def products(self, embeddings: Tensor) -> Tensor:
        """Return the inner product of each pair, (B, P)."""
        first, second = pair_indices(self.fields)
        return (embeddings[:, first] * embeddings[:, second]).sum(-1)


FORMS = {"batched": (IPNN, HybridSelection), "gathered": (GatheredIPNN, GatheredHybrid)}


def bench_step(given: argparse.Namespace) -> None:
    """Measure both forms, each in a process of its own, and print them with their ratio."""
    if given.form:
        print(json.dumps(measure_form(given.form, given.batch, given.rank, given.repeats)))
        return
    results = {}
    options = ["--batch", str(given.batch), "--rank", str(given.rank), "--repeats", str(given.repeats)]
    for form in FORMS:
        command = [sys.executable, "-m", "scripts.bench_ctr", "step", "--form", form, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{form}: ended with code {done.returncode}: {done.stderr[-500:]}")
        results[form] = json.loads(done.stdout.splitlines()[-1])
        print(f"{form}: " + ", ".join(f"{name} {value:.3f}" for name, value in results[form].items()), flush=True)
    for name in ("seconds", "processor_seconds", "pair_seconds", "pair_processor_seconds", "peak_gib"):
        print(f"{name}: gathered / batched = {results['gathered'][name] / results['batched'][name]:.2f}")


def measure_form(form: str, batch: int, rank: int, repeats: int) -> dict[str, float]:
    """Measure a whole training step, and the pair scores with their gradients alone.

    Args:
        form: key of `FORMS`.
        batch: rows of a batch.
        rank: rank of the selection.
        repeats: number of measured steps.
    """
    torch.manual_seed(0)
    network_class, selection_class = FORMS[form]
    sizes = (VALUES,) * FIELDS
    network, selection = network_class(sizes), selection_class(sizes, rank=rank)
    optimizers = [torch.optim.Adam(network.parameters(), fused=True), *selection.optimizers()]
    ids, labels = random_batch(batch)

    def step() -> None:
        train_step(lambda: network(ids, selection.gates(ids).pair), labels, optimizers)

    def scores() -> None:
        selection.scores(ids).sum().backward()

    pair = median_seconds(scores, repeats)
    whole = median_seconds(step, repeats)
    return {
        "seconds": whole[0],
        "processor_seconds": whole[1],
        "pair_seconds": pair[0],
        "pair_processor_seconds": pair[1],
        "peak_gib": peak_gib(),
    }


def random_batch(rows: int) -> tuple[Tensor, Tensor]:
    """Return ids (rows, 39) and labels (rows,).

    Args:
        rows: number of rows.
    """
    ids = torch.randint(0, VALUES, (rows, FIELDS)) + torch.arange(FIELDS) * VALUES
    return ids.int(), (torch.rand(rows) < 0.25).float()


def train_step(logits: Callable[[], Tensor], labels: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Make one step.

    Args:
        logits: function that returns the logits of the batch.
        labels: labels of the batch.
        optimizers: optimizers to step.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    binary_cross_entropy_with_logits(logits(), labels).backward()
    for optimizer in optimizers:
        optimizer.step()


# ---- models against FuxiCTR's layers ----


def fuxictr_class(file: str, name: str) -> type[nn.Module] | None:
    """Return a class of FuxiCTR, loaded from its file without the rest of the package, or None where it is missing.

    Args:
        file: path below fuxictr/pytorch/layers.
        name: name of the class.
    """
    spec = importlib.util.find_spec("fuxictr")
    if spec is None or spec.submodule_search_locations is None:
        return None
    path = Path(spec.submodule_search_locations[0]) / "pytorch" / "layers" / file
    module_spec = importlib.util.spec_from_file_location(f"fuxictr_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return getattr(module, name)


class FuxiModel(nn.Module):
    """IPNN or DeepFM as FuxiCTR's model zoo builds them: a table for each field, its product layer, a perceptron.

    Args:
        product: its InnerProductInteraction.
        deepfm: build DeepFM, whose product is added to the logit, with a linear term of 39 tables.
    """

    def __init__(self, product: type[nn.Module], deepfm: bool) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(VALUES, 16) for _ in range(FIELDS))
        self.deepfm = deepfm
        if deepfm:
            self.weights = nn.ModuleList(nn.Embedding(VALUES, 1) for _ in range(FIELDS))
        self.product = product(FIELDS, output="product_sum" if deepfm else "inner_product")
        width = FIELDS * 16 + (0 if deepfm else FIELDS * (FIELDS - 1) // 2)
        layers: list[nn.Module] = []
        for hidden in (1024, 512, 256):
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits, (B,)."""
        local = ids - torch.arange(FIELDS) * VALUES
        embeddings = torch.stack([table(local[:, i]) for i, table in enumerate(self.tables)], dim=1)
        product = self.product(embeddings)
        if not self.deepfm:
            return self.mlp(torch.cat([embeddings.flatten(1), product], dim=1)).squeeze(1)
        linear = torch.stack([table(local[:, i]) for i, table in enumerate(self.weights)], dim=1).sum((1, 2))
        return self.mlp(embeddings.flatten(1)).squeeze(1) + linear + product.flatten()


def bench_models(given: argparse.Namespace) -> None:
    """Measure training steps of IPNN and DeepFM on both sides, in turns, and print rows a second."""
    product = fuxictr_class("interactions/inner_product.py", "InnerProductInteraction")
    sizes, (ids, labels) = (VALUES,) * FIELDS, random_batch(given.batch)
    ours: dict[str, CTRNetwork] = {"IPNN": IPNN(sizes), "DeepFM": DeepFM(sizes, linear=True)}
    for name, network in ours.items():
        contestants: dict[str, nn.Module] = {"ours": network}
        if product is not None:
            contestants["FuxiCTR's layers"] = FuxiModel(product, name == "DeepFM")
        seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in contestants}
        optimizers = {side: [torch.optim.Adam(model.parameters(), fused=True)] for side, model in contestants.items()}
        for _ in range(given.repeats):
            for side, model in contestants.items():
                step = lambda m=model, o=optimizers[side]: train_step(lambda: m(ids), labels, o)  # noqa: E731
                seconds[side].append(median_seconds(step, 1))
        for side, pairs in seconds.items():
            clock, processor = (statistics.median(pair[i] for pair in pairs) for i in range(2))
            print(
                f"{name}, {side}: {given.batch / clock:.0f} rows/s by the clock, {given.batch / processor:.0f} by CPU"
            )


# ---- data ----


def bench_data(given: argparse.Namespace) -> None:
    """Prepare a file of Criteo's layout, go through the training part once, and print rows a second and peak memory."""
    from datasets.ctr.layouts import criteo_schema
    from datasets.ctr.loader import CTRLoader, open_shards
    from datasets.ctr.prepare import Plan, Split, prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not given.file.is_file():
        sys.exit(f"there is no {given.file}; python -m scripts.prepare_ctr generate {given.file} writes one")
    if given.fuxictr and not (given.fuxictr / "fuxictr").is_dir():
        sys.exit(f"--fuxictr={given.fuxictr}: no FuxiCTR in there; scripts/bench_fuxictr.py says how to install it")
    with tempfile.TemporaryDirectory(dir=given.file.parent) as temporary:
        folder = given.folder or Path(temporary) / "prepared"
        sources = {"all": (given.file,)}
        plan = Plan("bench", folder, criteo_schema(), sources, Split(), min_count=2, workers=given.workers)
        started = time.perf_counter()
        manifest = prepare(plan)
        seconds = time.perf_counter() - started
        rows = sum(part.rows for part in manifest.parts.values())
        ours = {"prepare": rows / seconds}
        peak = peak_gib(given.workers if given.workers > 1 else 0)
        print(f"prepare: {rows} rows in {seconds:.1f} s, {rows / seconds:.0f} rows/s, peak {peak:.2f} GiB")
        loader = CTRLoader(open_shards(plan.folder, manifest.parts["train"]), 4096, shuffle=True)
        started = time.perf_counter()
        clicks = sum(float(batch.labels.sum()) for batch in loader)
        seconds = time.perf_counter() - started
        ours["loader"] = loader.rows / seconds
        print(f"loader: {loader.rows} rows in {seconds:.1f} s, {loader.rows / seconds:.0f} rows/s, {clicks:.0f} clicks")
        print(f"{sum(manifest.field_sizes)} ids, peak {peak_gib():.2f} GiB")
        if given.train:
            test = CTRLoader(open_shards(plan.folder, manifest.parts["test"]), 4096)
            train_epoch(manifest.field_sizes, loader, test)
        if given.fuxictr:
            compare_with_fuxictr(given.file, given.fuxictr, ours)


def compare_with_fuxictr(file: Path, folder: Path, ours: Mapping[str, float]) -> None:
    """Measure FuxiCTR's preparation and loader on the same file, and print its rows a second and the ratios.

    Args:
        file: text file of Criteo's layout.
        folder: folder that FuxiCTR was installed into.
        ours: rows a second of our "prepare" and "loader".
    """
    command = [sys.executable, "-m", "scripts.bench_fuxictr", str(file)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder.resolve()), os.getcwd()])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"FuxiCTR: ended with code {done.returncode}: {done.stderr[-500:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    for name, rate in ours.items():
        seconds = theirs[f"{name}_seconds"]
        other = theirs["rows"] / seconds
        print(f"{name}, FuxiCTR: {theirs['rows']} rows in {seconds:.1f} s, {other:.0f} rows/s")
        print(f"{name}: ours / FuxiCTR = {rate / other:.1f}")
    print(f"FuxiCTR: {theirs['ids']} ids")


def train_epoch(field_sizes: Sequence[int], train: Iterable[CTRBatch], test: Iterable[CTRBatch]) -> None:
    """Train a factorization machine for one epoch with lazy Adam, and print speed, peak memory and test AUC.

    Args:
        field_sizes: number of ids of each field.
        train: loader of the training part.
        test: loader of the test part.
    """
    network = FM(field_sizes, embedding_dim=8, linear=True, sparse=True)
    tables = [module.weight for module in network.modules() if isinstance(module, nn.Embedding)]
    optimizers = [torch.optim.SparseAdam(tables, lr=1e-3), torch.optim.Adam([network.linear.bias], lr=1e-3)]
    rows, started = 0, time.perf_counter()
    for batch in track(train, "batches trained"):
        train_step(lambda ids=batch.ids: network(ids), batch.labels, optimizers)
        rows += len(batch.labels)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        pairs = [(network(batch.ids), batch.labels) for batch in test]
    area = auc(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
    print(f"training (FM, d 8): {rows} rows in {seconds:.1f} s, {rows / seconds:.0f} rows/s, test AUC {area:.4f}")
    print(f"peak {peak_gib():.2f} GiB")


if __name__ == "__main__":
    main()
