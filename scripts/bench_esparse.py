"""How long E-Sparse's parts take: its local block shuffle beside a loop over pairs, its whole run beside Wanda's.

    python -m scripts.bench_esparse [--columns 256] [--rows 576] [--model smollm2_135m] [--samples 16] [--length 256]
                                    [--repeats 2] [--threads 1]

(a) One block of columns, the same greedy policy, kept scores printed. (b) All blocks of a real model, not evaluated;
contestants take turns, medians of the ratios are printed, and where each run spends its time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from hydra.utils import instantiate
from torch import Tensor

from methods.esparse.decoder import Decoder
from methods.esparse.engine import Recipe, prune
from methods.esparse.module import split_of
from methods.esparse.patterns import NM
from methods.esparse.scores import ESparse, Wanda
from methods.esparse.shuffle import Shuffle, local_block_shuffle, retained
from runner.config.address import Run

KEEP, OF, SWEEPS = 2, 4, 8


def pair_loop(scores: Tensor, sweeps: int) -> Tensor:
    """The same shuffle of one block, its gains computed pair by pair: the permutation (m,)."""
    order = torch.arange(scores.shape[1])
    groups = scores.shape[1] // OF

    def kept(columns: Tensor) -> float:
        return scores[:, columns].topk(KEEP, dim=1).values.sum().item()

    for _ in range(sweeps):
        members = order.view(groups, OF)
        base = [kept(group) for group in members]
        gains = []
        for g in range(groups):
            for h in range(g + 1, groups):
                for i in range(OF):
                    for j in range(OF):
                        one, other = members[g].clone(), members[h].clone()
                        one[i], other[j] = members[h, j], members[g, i]
                        gains.append((kept(one) + kept(other) - base[g] - base[h], g, h, i, j))
        used: set[int] = set()
        for gain, g, h, i, j in sorted(gains, reverse=True):
            if gain <= 1e-6 * sum(base):
                break
            if not {g, h} & used:
                used |= {g, h}
                p, q = g * OF + i, h * OF + j
                order[[p, q]] = order[[q, p]]
        if not used:
            break
    return order


def compare_shuffles(rows: int, columns: int, sweeps: int) -> None:
    """Prints (a)."""
    generator = torch.Generator().manual_seed(0)
    rich = torch.rand(columns, generator=generator).exp()
    scores = torch.randn(rows, columns, generator=generator).abs() * rich
    start = torch.arange(columns)
    taken, found = {}, {}
    local_block_shuffle(scores[:8], start, KEEP, OF, columns, 1)  # compiles what is compiled at its first use
    for name, shuffle in {
        "all gains at once": lambda: local_block_shuffle(scores, start, KEEP, OF, columns, sweeps),
        "loop over pairs": lambda: pair_loop(scores, sweeps),
    }.items():
        began = time.perf_counter()
        found[name] = retained(scores, shuffle(), KEEP, OF)
        taken[name] = time.perf_counter() - began
    natural = retained(scores, start, KEEP, OF)
    for name, seconds in taken.items():
        print(f"  {name:<20}{seconds:9.3f} s   kept score {found[name] / natural:.5f} of that without a shuffle")
    print(f"  ratio {taken['loop over pairs'] / taken['all gains at once']:.0f}")


def compare_runs(model: str, samples: int, length: int, repeats: int) -> None:
    """Prints (b)."""
    cfg = Run.compose(["method=esparse", f"model={model}", "dataset=topics"]).cfg
    source = instantiate(cfg.model, root=os.environ.get("RUNNER_DATA", "data"))
    data = instantiate(
        cfg.dataset, calibration={"source": "topics", "samples": samples, "length": length, "sampling": "text"}
    )
    data.setup()
    data.tokenize(source.encode, source.longest)
    loaded = source.load()
    weights = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    recipes = {
        "Wanda": Recipe(NM(2, 4), Wanda()),
        "E-Sparse": Recipe(NM(2, 4), ESparse(), Shuffle()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    for repeat in range(repeats):
        for name in sorted(recipes, reverse=repeat % 2 == 1):
            loaded.load_state_dict(weights)
            began = time.perf_counter()
            report = prune(Decoder(loaded), data.calibration, recipes[name], lambda items, _: items)
            seconds[name].append(time.perf_counter() - began)
            print(f"  {name:<10}{seconds[name][-1]:8.1f} s   {split_of(report.seconds)}", flush=True)
    ratios = [e / w for e, w in zip(seconds["E-Sparse"], seconds["Wanda"], strict=True)]
    print(f"  E-Sparse / Wanda {statistics.median(ratios):.2f} at {samples} x {length} calibration tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=576)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--sweeps", type=int, default=SWEEPS)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{arguments.threads} thread(s), {os.cpu_count()} cores with load {load}")
    print(f"(a) local block shuffle of {arguments.columns} columns and {arguments.rows} rows, 2:4")
    compare_shuffles(arguments.rows, arguments.columns, arguments.sweeps)
    if arguments.repeats:
        print(f"(b) pruning {arguments.model} to 2:4")
        compare_runs(arguments.model, arguments.samples, arguments.length, arguments.repeats)


if __name__ == "__main__":
    main()
