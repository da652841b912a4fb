"""Time E-Sparse's local block shuffle against a loop over pairs, and its whole pruning against Wanda's.

    python -m scripts.bench_esparse [--columns 256] [--rows 576] [--sweeps 8] [--model smollm2_135m] [--samples 16]
                                    [--length 256] [--repeats 2] [--threads 1]

(a) One block of columns with the same greedy policy, and with assignments before the swaps; retained scores are
printed. (b) All blocks of a real model,
without evaluation; both methods take turns, the median of the ratios and the share of each kind of work are printed.
--repeats 0 leaves (b) out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from hydra.utils import instantiate
from torch import Tensor

from methods.esparse.channel_shuffle import ChannelShuffle, local_block_shuffle
from methods.esparse.decoder import Decoder
from methods.esparse.group_ranking import retained_score
from methods.esparse.patterns import NM
from methods.esparse.pruning import Recipe, prune, time_shares
from methods.esparse.scores import ESparse, Wanda
from runner.config.address import Run
from scripts.arguments import not_negative, positive

N, M, SWEEPS = 2, 4, 8
ROUNDS = 2  # of linear sum assignment
TOLERANCE = 1e-6  # smallest gain of a swap, as a share of the retained score


def group_score(scores: Tensor, columns: Tensor) -> float:
    """Return the score that N:M keeps in the group of these columns (M,)."""
    return scores[:, columns].topk(N, dim=1).values.sum().item()


def swap_gains(scores: Tensor, members: Tensor) -> tuple[list[tuple[float, int, int]], float]:
    """Compute the gain of every swap between two groups, one pair of columns after another.

    Args:
        scores: (R, C) scores.
        members: (G, M) columns of each group.

    Returns:
        Gain and places of the two columns for each swap, and the retained score as it is.
    """
    retained = [group_score(scores, group) for group in members]
    gains = []
    for p in range(members.numel()):
        for q in range(p - p % M + M, members.numel()):
            g, i, h, j = p // M, p % M, q // M, q % M
            one, other = members[g].clone(), members[h].clone()
            one[i], other[j] = members[h, j], members[g, i]
            gain = group_score(scores, one) + group_score(scores, other) - retained[g] - retained[h]
            gains.append((gain, p, q))
    return gains, sum(retained)


def pair_loop(scores: Tensor, sweeps: int) -> Tensor:
    """Shuffle one block as `local_block_shuffle` does, with gains computed pair by pair: permutation (C,)."""
    order = torch.arange(scores.shape[1])
    for _ in range(sweeps):
        gains, retained = swap_gains(scores, order.view(-1, M))
        used: set[int] = set()
        for gain, p, q in sorted(gains, reverse=True):
            if gain <= TOLERANCE * retained:
                break
            if not {p // M, q // M} & used:
                used |= {p // M, q // M}
                order[[p, q]] = order[[q, p]]
        if not used:
            break
    return order


def compare_shuffles(rows: int, columns: int, sweeps: int) -> None:
    """Print part (a)."""
    generator = torch.Generator().manual_seed(0)
    channel_scale = torch.rand(columns, generator=generator).exp()
    scores = torch.randn(rows, columns, generator=generator).abs() * channel_scale
    natural = torch.arange(columns)
    seconds, shares = {}, {}
    local_block_shuffle(scores[:8], natural, N, M, columns, ROUNDS, sweeps)  # compiles the kernels
    for name, shuffle in {
        "assignment, then swaps": lambda: local_block_shuffle(scores, natural, N, M, columns, ROUNDS, sweeps),
        "all gains at once": lambda: local_block_shuffle(scores, natural, N, M, columns, 0, sweeps),
        "loop over pairs": lambda: pair_loop(scores, sweeps),
    }.items():
        started = time.perf_counter()
        permutation = shuffle()
        seconds[name] = time.perf_counter() - started
        shares[name] = retained_score(scores, permutation, N, M) / retained_score(scores, natural, N, M)
        print(f"  {name:<24}{seconds[name]:9.3f} s   retained score {shares[name]:.5f} of that without a shuffle")
    print(f"  ratio {seconds['loop over pairs'] / seconds['all gains at once']:.0f}")


def compare_runs(model: str, samples: int, length: int, repeats: int) -> None:
    """Print part (b)."""
    cfg = Run.compose(["method=esparse", f"model={model}", "dataset=topics"]).cfg
    source = instantiate(cfg.model, root=os.environ.get("RUNNER_DATA", "data"))
    calibration = {"source": "topics", "samples": samples, "length": length, "sampling": "text"}
    data = instantiate(cfg.dataset, calibration=calibration)
    data.setup()
    data.tokenize(source.encode, source.longest)
    loaded = source.load()
    weights = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    recipes = {"Wanda": Recipe(NM(N, M), Wanda()), "E-Sparse": Recipe(NM(N, M), ESparse(), ChannelShuffle())}
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    for repeat in range(repeats):
        for name in sorted(recipes, reverse=repeat % 2 == 1):
            loaded.load_state_dict(weights)
            started = time.perf_counter()
            report = prune(Decoder(loaded), data.calibration, recipes[name], lambda items, _: items)
            seconds[name].append(time.perf_counter() - started)
            print(f"  {name:<10}{seconds[name][-1]:8.1f} s   {time_shares(report.seconds)}", flush=True)
    ratios = [e / w for e, w in zip(seconds["E-Sparse"], seconds["Wanda"], strict=True)]
    print(f"  E-Sparse / Wanda {statistics.median(ratios):.2f} at {samples} x {length} calibration tokens")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=576)
    parser.add_argument("--columns", type=positive, default=256)
    parser.add_argument("--sweeps", type=positive, default=SWEEPS)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--samples", type=positive, default=16)
    parser.add_argument("--length", type=positive, default=256)
    parser.add_argument("--repeats", type=not_negative, default=2, help="runs of each method in (b); 0 leaves (b) out")
    parser.add_argument("--threads", type=positive, default=1)
    parsed = parser.parse_args(arguments)
    if parsed.columns % M:
        parser.error(f"--columns must be a multiple of {M}")
    return parsed


def main() -> None:
    """Run the command line."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{arguments.threads} thread(s), {os.cpu_count()} cores with load {load}")
    print(f"(a) local block shuffle of {arguments.columns} columns and {arguments.rows} rows, {N}:{M}")
    compare_shuffles(arguments.rows, arguments.columns, arguments.sweeps)
    if arguments.repeats:
        print(f"(b) pruning {arguments.model} to {N}:{M}")
        compare_runs(arguments.model, arguments.samples, arguments.length, arguments.repeats)


if __name__ == "__main__":
    main()
