"""The matrix products of a LLaMA as such: what its 2:4 weights take in memory, and how long they take on a GPU."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.benchmark import Timer

from methods.esparse.compress import bytes_of
from methods.esparse.patterns import NM

log = logging.getLogger(__name__)

VOCABULARY = 32000
GRAPH_CALLS = 10
CONTESTANTS = {"cutlass": ("cutlass",), "cusparselt": ("cusparselt", "searched")}  # the default algorithm, and the best
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class LlamaShapes(nn.Module):
    """Sizes of a LLaMA-1 without its weights. d: width; d_ff: width of the MLP; blocks: how many."""

    tasks = ("matrix-products",)

    def __init__(self, d: int, d_ff: int, blocks: int) -> None:
        super().__init__()
        self.d, self.d_ff, self.blocks = d, d_ff, blocks

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the products of a block: matrices with the same input are one."""
        d, d_ff = self.d, self.d_ff
        return {"qkv": (3 * d, d), "out": (d, d), "gate_up": (2 * d_ff, d), "down": (d, d_ff)}

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


def memory(shapes: LlamaShapes, itemsize: int) -> dict[str, float]:
    """What `Memory` measures, by the metric's name without split. itemsize: bytes of a weight."""
    whole, compressed = shapes.bytes(itemsize), shapes.compressed_bytes(itemsize)
    return {
        "dense_gib": whole / 2**30,
        "sparse_gib": compressed / 2**30,
        "saved": 1 - compressed / whole,
        "saved_shuffled": 1 - (compressed + shapes.permutation_bytes) / whole,
    }


class Memory(LightningModule):
    """Memory of all weights, from their shapes. Metrics: `test/dense_gib`, `test/sparse_gib` (2:4 with 2-bit indices),
    `test/saved` and, with the permutations of the shuffles kept as indices, `test/saved_shuffled`, fractions.

    Args: network: the shapes. dtype: of the weights, float16 or bfloat16.
    """

    tasks = ("matrix-products",)

    def __init__(self, network: LlamaShapes, dtype: str = "float16") -> None:
        super().__init__()
        self.shapes, self.itemsize = network, checked(dtype).itemsize

    def test_step(self, tokens: int, index: int) -> None:
        """The number of tokens makes no difference to the weights."""

    def on_test_epoch_end(self) -> None:
        found = memory(self.shapes, self.itemsize)
        self.log_dict({f"test/{name}": torch.tensor(value, dtype=torch.float64) for name, value in found.items()})


class SparseProducts(LightningModule):
    """Time of the products of a block, dense and 2:4, with random weights, on a GPU (paper, Sparse-GEMM).

    Metrics, for each of `LlamaShapes.products`, each number of tokens and each of `CONTESTANTS`:
    `test/<product>_<tokens>_ms` (dense, milliseconds), `test/<product>_<tokens>_<contestant>_speedup` (dense over 2:4,
    below 1 where 2:4 is slower); `test/<contestant>_speedup` (median over all), `test/speedup` (the largest of these).

    Args:
        network: the shapes. dtype: float16 or bfloat16. backends: of cutlass, cusparselt. seconds: spent on each time.
        graphs: replay CUDA graphs, which leaves out what Python takes to launch a product.
    """

    tasks = ("matrix-products",)
    distributed = False

    def __init__(
        self,
        network: LlamaShapes,
        dtype: str = "float16",
        backends: Sequence[str] = tuple(CONTESTANTS),
        seconds: float = 0.2,
        graphs: bool = False,
    ) -> None:
        super().__init__()
        if unknown := set(backends) - set(CONTESTANTS):
            raise ValueError(f"method.backends are of {', '.join(CONTESTANTS)}, got {', '.join(sorted(unknown))}")
        self.shapes, self.dtype_, self.backends, self.seconds = network, checked(dtype), list(backends), seconds
        self.clock = graph_milliseconds if graphs else milliseconds
        self.dense: dict[tuple[str, int], float] = {}  # milliseconds, by product and tokens
        self.speedups: dict[tuple[str, int], dict[str, float]] = {}  # likewise, by contestant

    def prepare(self, data: Any) -> None:
        if not torch.cuda.is_available():
            raise ValueError(
                "the products are timed on a GPU with 2:4 tensor cores, and torch finds none here: "
                "trainer=gpu on a machine that has one; method=esparse/memory needs none"
            )

    def test_step(self, tokens: int, index: int) -> None:
        backends = usable(self.backends, self.dtype_, self.device)
        for product, shape in self.shapes.products.items():
            times = measure(random_2to4(*shape, self.dtype_, self.device), tokens, backends, self.clock, self.seconds)
            self.dense[product, tokens] = dense = times.pop("dense")
            self.speedups[product, tokens] = {name: dense / ms for name, (ms, _, _) in times.items()}

    def on_test_epoch_end(self) -> None:
        found = {f"{product}_{tokens}_ms": ms for (product, tokens), ms in self.dense.items()}
        of_all: dict[str, list[float]] = {}
        for (product, tokens), speedups in self.speedups.items():
            for name, value in speedups.items():
                found[f"{product}_{tokens}_{name}_speedup"] = value
                of_all.setdefault(name, []).append(value)
        medians = {f"{name}_speedup": statistics.median(values) for name, values in of_all.items()}
        if medians:
            found |= medians | {"speedup": max(medians.values())}
        self.log_dict({f"test/{name}": torch.tensor(value, dtype=torch.float64) for name, value in found.items()})

    def figures(self) -> dict[str, Any]:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        for product in self.shapes.products:
            best = {tokens: max(of.values()) for (name, tokens), of in self.speedups.items() if name == product and of}
            axes.plot(list(best), list(best.values()), marker="o", label=product)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlabel="tokens", ylabel="dense time / 2:4 time, best backend")
        axes.legend()
        return {"speedup": figure}


def checked(dtype: str) -> torch.dtype:
    if dtype not in DTYPES:
        raise ValueError(f"method.dtype must be one of {', '.join(DTYPES)}, got {dtype}")
    return DTYPES[dtype]


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


def sparse_weights(weight: Tensor, tokens: int, backends: Sequence[str]) -> Iterator[tuple[str, Tensor, str]]:
    """Contestants: name, the semi-structured weight, a remark."""
    from methods.esparse.semi_structured import search_algorithm, semi_structured

    for backend in backends:
        yield backend, semi_structured(weight, backend), ""
        if backend == "cusparselt":
            found = search_algorithm(weight, None, tokens)
            yield "searched", semi_structured(weight, backend, found), f"algorithm {found}"


def measure(
    weight: Tensor, tokens: int, backends: Sequence[str], clock: Callable[..., float], seconds: float
) -> dict[str, Any]:
    """Milliseconds of `dense`, and for each contestant its own, its error and its remark."""
    from methods.esparse.semi_structured import random_input, relative_error

    x = random_input(tokens, weight)
    expected = linear(x, weight)
    found: dict[str, Any] = {"dense": clock(lambda: linear(x, weight), seconds)}
    for name, sparse, remark in sparse_weights(weight, tokens, backends):
        error = relative_error(linear(x, sparse), expected)
        found[name] = clock(lambda sparse=sparse: linear(x, sparse), seconds), error, remark
    return found


def usable(backends: Sequence[str], dtype: torch.dtype, device: torch.device) -> list[str]:
    """Those that multiply on this machine; warns why the others do not."""
    from methods.esparse.semi_structured import first_line, machine_obstacle, random_input, semi_structured

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
            log.warning("%s left out: %s", backend, reason)
    return works
