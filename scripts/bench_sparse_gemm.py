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
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.benchmark import Timer

from methods.esparse.compress import bytes_of
from methods.esparse.patterns import NM
from methods.esparse.semi_structured import (
    first_line,
    machine_obstacle,
    random_input,
    relative_error,
    search_algorithm,
    semi_structured,
)

VOCABULARY = 32000
GRAPH_CALLS = 10
CONTESTANTS = {"cutlass": ("cutlass",), "cusparselt": ("cusparselt", "searched")}  # the default algorithm, and the best


@dataclass(frozen=True)
class Llama:
    """Sizes of a LLaMA-1: width, width of the MLP, blocks."""

    d: int
    d_ff: int
    blocks: int

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the products of a block: matrices with the same input are one."""
        d, d_ff = self.d, self.d_ff
        return {"qkv": (3 * d, d), "attention out": (d, d), "gate+up": (2 * d_ff, d), "down": (d, d_ff)}

    @property
    def dense(self) -> int:
        """Weights that are not pruned: embeddings, head, norms."""
        return 2 * VOCABULARY * self.d + (2 * self.blocks + 1) * self.d

    @property
    def pruned(self) -> int:
        return self.blocks * sum(rows * columns for rows, columns in self.products.values())

    def bytes(self, itemsize: int) -> int:
        return itemsize * (self.dense + self.pruned)

    def compressed_bytes(self, itemsize: int) -> int:
        matrices = sum(bytes_of(*shape, itemsize) for shape in self.products.values())
        return itemsize * self.dense + self.blocks * matrices

    @property
    def permutation_bytes(self) -> int:
        """One int32 a channel of each product's input."""
        return 4 * self.blocks * sum(columns for _, columns in self.products.values())


LLAMA = {
    "7b": Llama(4096, 11008, 32),
    "13b": Llama(5120, 13824, 40),
    "30b": Llama(6656, 17920, 60),
    "65b": Llama(8192, 22016, 80),
}


def memory_table(names: list[str], itemsize: int) -> Iterator[str]:
    """Lines of (a)."""
    yield f"  {'model':<8}{'dense GiB':>12}{'2:4 GiB':>12}{'saved':>10}{'and with permutations':>24}"
    for name in names:
        model = LLAMA[name]
        whole, compressed = model.bytes(itemsize), model.compressed_bytes(itemsize)
        shuffled = compressed + model.permutation_bytes
        yield (
            f"  {name:<8}{whole / 2**30:12.2f}{compressed / 2**30:12.2f}"
            f"{1 - compressed / whole:10.2%}{1 - shuffled / whole:24.2%}"
        )


def random_2to4(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(rows, columns): normal, its larger two of every four kept."""
    weight = torch.randn(rows, columns, device=device, dtype=dtype)
    return weight * NM(2, 4).mask(weight.abs())


def milliseconds(call: Callable[[], Tensor], seconds: float) -> float:
    """Median time of a call, warmed up, over `seconds` of calls."""
    return 1e3 * Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=seconds).median


def graph_milliseconds(call: Callable[[], Tensor], seconds: float) -> float:
    """The same for a CUDA graph of some calls, by CUDA events: without what Python takes to launch them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_CALLS):
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: list[float] = []
    while len(times) < 6 or sum(times) < 1e3 * seconds:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[1:]) / GRAPH_CALLS


def sparse_weights(weight: Tensor, tokens: int, backends: list[str]) -> Iterator[tuple[str, Tensor, str]]:
    """Contestants: name, the semi-structured weight, a remark."""
    for backend in backends:
        yield backend, semi_structured(weight, backend), ""
        if backend == "cusparselt":
            found = search_algorithm(weight, None, tokens)
            yield "searched", semi_structured(weight, backend, found), f"algorithm {found}"


def measure(weight: Tensor, tokens: int, backends: list[str], clock: Callable[..., float], seconds: float) -> dict:
    """Milliseconds of `dense`, and for each contestant its own, its error and its remark."""
    x = random_input(tokens, weight)
    expected = linear(x, weight)
    found: dict = {"dense": clock(lambda: linear(x, weight), seconds)}
    for name, sparse, remark in sparse_weights(weight, tokens, backends):
        error = relative_error(linear(x, sparse), expected)
        found[name] = clock(lambda sparse=sparse: linear(x, sparse), seconds), error, remark
    return found


def line_of(found: dict, contestants: list[str]) -> str:
    """What was measured, as columns."""
    columns = [f"{found['dense']:10.4f}"]
    for taken, error, _ in (found[c] for c in contestants):
        columns.append(f"{taken:15.4f}{found['dense'] / taken:7.2f}{error:9.1e}")
    return "".join([*columns, *(f"  {found[c][2]}" for c in contestants if found[c][2])])


def usable(backends: list[str], dtype: torch.dtype, device: torch.device) -> list[str]:
    """Those that multiply on this machine; says why the others do not."""
    works = []
    for backend in backends:
        reason = machine_obstacle(device, backend)
        if reason is None:
            weight = random_2to4(128, 128, dtype, device)
            try:
                linear(random_input(8, weight), semi_structured(weight, backend)).sum().item()
            except RuntimeError as error:
                reason = f"torch says: {first_line(error)}"
        if reason is None:
            works.append(backend)
        else:
            print(f"  {backend} left out: {reason}")
    return works


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
    for product, shape in LLAMA[name].products.items():
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
    parser.add_argument("--models", nargs="+", choices=LLAMA, default=list(LLAMA))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 8, 16, 64, 256, 1024, 4096, 16384])
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--backends", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seconds", type=float, default=0.2, help="spent on each time")
    parser.add_argument("--graphs", action="store_true", help="replay CUDA graphs: leaves launching out")
    arguments = parser.parse_args()
    if min(arguments.tokens) < 1:
        parser.error("--tokens must be positive")
    warnings.filterwarnings("ignore")
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
