"""E-Sparse's Sparse-GEMM: 2:4 weights beside dense ones, in time on a GPU and in memory, for the matrices of LLaMA-1.

    python -m scripts.bench_sparse_gemm [--models 7b 13b 30b 65b] [--tokens 1 8 16 64 256 1024 4096 16384]
        [--dtype float16] [--backends cutlass cusparselt] [--seconds 0.2] [--graphs]

(a) Memory of all weights, from their shapes, without a GPU too: pruned matrices compressed, all else dense.
(b) Matrix products: the median time of F.linear with a dense weight, over that with the same 2:4 weight as torch's
semi-structured tensor. Above 1 sparse is faster, below 1 slower; `searched` is cuSPARSELt with the algorithm that it
found to be best for the shape. Without --graphs the times hold what Python takes to launch a product, which is most of
it for few tokens; with it CUDA graphs are replayed, and that is left out.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator

import torch
from hydra.utils import instantiate

from methods.esparse.products import (
    CONTESTANTS,
    GRAPH_CALLS,
    LlamaShapes,
    graph_milliseconds,
    measure,
    memory,
    milliseconds,
    random_2to4,
    usable,
)
from methods.esparse.semi_structured import first_line
from runner.config.compose import compose

MODELS = ["7b", "13b", "30b", "65b"]


def shapes_of(name: str) -> LlamaShapes:
    """Of LLaMA-1 `name`, as conf/model has them."""
    return instantiate(compose(["method=esparse/memory", f"model=llama{name}_shapes"]).model)


def memory_table(names: list[str], itemsize: int) -> Iterator[str]:
    """Lines of (a)."""
    yield f"  {'model':<8}{'dense GiB':>12}{'2:4 GiB':>12}{'saved':>10}{'and with permutations':>24}"
    for name in names:
        found = memory(shapes_of(name), itemsize)
        yield (
            f"  {name:<8}{found['dense_gib']:12.2f}{found['sparse_gib']:12.2f}"
            f"{found['saved']:10.2%}{found['saved_shuffled']:24.2%}"
        )


def line_of(found: dict, contestants: list[str]) -> str:
    """What was measured, as columns."""
    columns = [f"{found['dense']:10.4f}"]
    for taken, error, _ in (found[c] for c in contestants):
        columns.append(f"{taken:15.4f}{found['dense'] / taken:7.2f}{error:9.1e}")
    return "".join([*columns, *(f"  {found[c][2]}" for c in contestants if found[c][2])])


def compare(
    name: str,
    tokens: list[int],
    dtype: torch.dtype,
    device: torch.device,
    backends: list[str],
    clock: Callable[..., float],
    seconds: float,
) -> dict[str, list[float]]:
    """Prints a model's part of (b); returns contestant -> ratios. What fails is printed, and left out."""
    contestants = [c for backend in backends for c in CONTESTANTS[backend]]
    ratios: dict[str, list[float]] = {c: [] for c in contestants}
    print(f"  {name:<14}{'(out, in)':>16}{'tokens':>8}{'dense ms':>10}", end="")
    print("".join(f"{c + ' ms':>15}{'ratio':>7}{'error':>9}" for c in contestants))
    for product, shape in shapes_of(name).products.items():
        weight = random_2to4(*shape, dtype, device)
        for count in tokens:
            print(f"  {product:<14}{shape!s:>16}{count:8d}", end="")
            try:
                found = measure(weight, count, backends, clock, seconds)
            except RuntimeError as error:
                print(f"  failed: {first_line(error)}", flush=True)
                continue
            print(line_of(found, contestants), flush=True)
            for c in contestants:
                ratios[c].append(found["dense"] / found[c][0])
    return ratios


def summary(ratios: dict[str, list[float]]) -> Iterator[str]:
    """A line for each contestant."""
    for name, found in ratios.items():
        if not found:
            yield f"  {name}: nothing was measured"
            continue
        faster = sum(ratio > 1 for ratio in found)
        yield (
            f"  {name}: dense/sparse from {min(found):.2f} to {max(found):.2f}, median {statistics.median(found):.2f}; "
            f"faster than dense in {faster} of {len(found)}"
        )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 8, 16, 64, 256, 1024, 4096, 16384])
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--backends", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seconds", type=float, default=0.2, help="spent on each time")
    parser.add_argument("--graphs", action="store_true", help="replay CUDA graphs: leaves launching out")
    arguments = parser.parse_args()
    if min(arguments.tokens) < 1:
        parser.error("--tokens must be positive")
    warnings.filterwarnings("ignore")
    logging.basicConfig(format="  %(message)s")
    dtype = getattr(torch, arguments.dtype)

    print(f"(a) all weights of LLaMA-1 in {arguments.dtype}; the paper reports 42.6 to 43.52 % saved")
    print("\n".join(memory_table(arguments.models, dtype.itemsize)))
    if not torch.cuda.is_available():
        print("(b) left out: torch finds no CUDA device here")
        return
    how = f"CUDA graphs of {GRAPH_CALLS} products" if arguments.graphs else "launched from Python"
    print(
        f"(b) {torch.cuda.get_device_name()}, torch {torch.__version__}, cuSPARSELt "
        f"{torch.backends.cusparselt.version()}, {arguments.dtype}, {how}; error: largest difference from the masked "
        "dense product, as a share of its largest value; the paper reports ratios of 1.24 to 1.53"
    )
    torch.manual_seed(0)
    clock = graph_milliseconds if arguments.graphs else milliseconds
    device = torch.device("cuda")
    if not (backends := usable(arguments.backends, dtype, device)):
        return
    ratios: dict[str, list[float]] = {}
    for name in arguments.models:
        found = compare(name, arguments.tokens, dtype, device, backends, clock, arguments.seconds)
        ratios = {c: ratios.get(c, []) + more for c, more in found.items()}
    print("\n".join(summary(ratios)))


if __name__ == "__main__":
    main()
