"""Compare 2:4 weights with dense ones (E-Sparse's Sparse-GEMM): memory, and time on a GPU, for LLaMA-1's matrices.

    python -m scripts.bench_sparse_gemm [--models 7b 13b 30b 65b] [--tokens 1 8 16 64 256 1024 4096 16384]
        [--dtype float16] [--backends cutlass cusparselt] [--seconds 0.2] [--graphs]

(a) Memory of all weights, computed from their shapes without a GPU: pruned matrices compressed, all others dense.
(b) Matrix products on a GPU: the median time of F.linear with a dense weight, divided by that with the same 2:4 weight
as torch's semi-structured tensor. Above 1 sparse is faster, below 1 slower. `searched` is cuSPARSELt with its fastest
algorithm for the shape. Times include the launch of a product by Python, which dominates for few tokens; with --graphs
CUDA graphs are replayed, and the launch is left out.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator

import torch
from hydra.utils import instantiate

from methods.esparse.llama_shapes import LlamaShapes, weight_memory
from methods.esparse.semi_structured import first_line
from methods.esparse.sparse_gemm import (
    KERNELS,
    PRODUCTS_PER_GRAPH,
    KernelTime,
    graph_milliseconds,
    launch_milliseconds,
    random_2to4,
    time_product,
    usable_backends,
)
from runner.config.compose import compose
from scripts.arguments import positive, positive_number

MODELS = ["7b", "13b", "30b", "65b"]


def load_shapes(name: str) -> LlamaShapes:
    """Return the shapes of a LLaMA-1 from conf/model; name: its size, such as "7b"."""
    return instantiate(compose(["method=esparse/memory", f"model=llama{name}_shapes"]).model)


def memory_table(names: list[str], itemsize: int) -> Iterator[str]:
    """Yield the lines of part (a)."""
    yield f"  {'model':<8}{'dense GiB':>12}{'2:4 GiB':>12}{'saved':>10}{'saved with permutations':>26}"
    for name in names:
        row = weight_memory(load_shapes(name), itemsize)
        yield (
            f"  {name:<8}{row['dense_gib']:12.2f}{row['sparse_gib']:12.2f}"
            f"{row['saved']:10.2%}{row['saved_shuffled']:26.2%}"
        )


def format_times(dense: float, kernels: dict[str, KernelTime]) -> str:
    """Format the times of a product as columns."""
    columns = [f"{dense:10.4f}"]
    columns += [f"{k.milliseconds:15.4f}{dense / k.milliseconds:7.2f}{k.error:9.1e}" for k in kernels.values()]
    return "".join([*columns, *(f"  {k.remark}" for k in kernels.values() if k.remark)])


def compare(
    name: str,
    tokens: list[int],
    dtype: torch.dtype,
    device: torch.device,
    backends: list[str],
    timing: Callable[..., float],
    seconds: float,
) -> dict[str, list[float]]:
    """Print a model's part of (b); failures are printed and left out.

    Returns:
        Ratios of dense to 2:4 time by kernel.
    """
    names = [kernel for backend in backends for kernel in KERNELS[backend]]
    ratios: dict[str, list[float]] = {kernel: [] for kernel in names}
    print(f"  {name:<14}{'(out, in)':>16}{'tokens':>8}{'dense ms':>10}", end="")
    print("".join(f"{c + ' ms':>15}{'ratio':>7}{'error':>9}" for c in names))
    for product, shape in load_shapes(name).products.items():
        weight = random_2to4(*shape, dtype, device)
        for count in tokens:
            print(f"  {product:<14}{shape!s:>16}{count:8d}", end="")
            try:
                dense, kernels = time_product(weight, count, backends, timing, seconds)
            except RuntimeError as error:
                print(f"  failed: {first_line(error)}", flush=True)
                continue
            print(format_times(dense, kernels), flush=True)
            for kernel in names:
                ratios[kernel].append(dense / kernels[kernel].milliseconds)
    return ratios


def summary(ratios: dict[str, list[float]]) -> Iterator[str]:
    """Yield a line for each kernel."""
    for name, values in ratios.items():
        if not values:
            yield f"  {name}: nothing was measured"
            continue
        faster = sum(ratio > 1 for ratio in values)
        yield (
            f"  {name}: dense/sparse from {min(values):.2f} to {max(values):.2f}, "
            f"median {statistics.median(values):.2f}; faster than dense in {faster} of {len(values)}"
        )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--tokens", nargs="+", type=positive, default=[1, 8, 16, 64, 256, 1024, 4096, 16384])
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--backends", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--seconds", type=positive_number, default=0.2, help="duration of each measurement")
    parser.add_argument("--graphs", action="store_true", help="replay CUDA graphs, which leaves out the launch")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main() -> None:
    """Run the command line."""
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")
    logging.basicConfig(format="  %(message)s")
    dtype = getattr(torch, arguments.dtype)

    print(f"(a) all weights of LLaMA-1 in {arguments.dtype}; the paper reports 42.6 to 43.52 % saved")
    print("\n".join(memory_table(arguments.models, dtype.itemsize)))
    if not torch.cuda.is_available():
        print("(b) is left out: torch finds no CUDA device")
        return
    how = f"CUDA graphs of {PRODUCTS_PER_GRAPH} products" if arguments.graphs else "launched from Python"
    print(
        f"(b) {torch.cuda.get_device_name()}, torch {torch.__version__}, cuSPARSELt "
        f"{torch.backends.cusparselt.version()}, {arguments.dtype}, {how}; error: largest difference from the masked "
        "dense product, as a share of its largest value; the paper reports ratios of 1.24 to 1.53"
    )
    torch.manual_seed(0)
    timing = graph_milliseconds if arguments.graphs else launch_milliseconds
    device = torch.device("cuda")
    if not (backends := usable_backends(arguments.backends, dtype, device)):
        return
    ratios: dict[str, list[float]] = {}
    for name in arguments.models:
        more = compare(name, arguments.tokens, dtype, device, backends, timing, arguments.seconds)
        ratios = {kernel: ratios.get(kernel, []) + values for kernel, values in more.items()}
    print("\n".join(summary(ratios)))


if __name__ == "__main__":
    main()
