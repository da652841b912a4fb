"""Sparse-GEMM: time of a LLaMA's matrix products on a GPU, dense and 2:4, with random weights."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.benchmark import Timer

from methods.esparse.llama_shapes import LlamaShapes, find_dtype
from methods.esparse.patterns import NM
from methods.plots import COLUMN_WIDTH

log = logging.getLogger(__name__)

PRODUCTS_PER_GRAPH = 10
KERNELS = {"cutlass": ("cutlass",), "cusparselt": ("cusparselt", "searched")}  # searched: with the fastest algorithm
Timing = Callable[[Callable[[], Tensor], float], float]  # product, seconds -> milliseconds


class KernelTime(NamedTuple):
    """Time of a matrix product with a 2:4 weight.

    Args:
        milliseconds: median time.
        error: largest difference from the dense product, as a share of its largest value.
        remark: algorithm that was used, or empty.
    """

    milliseconds: float
    error: float
    remark: str


class SparseGEMM(LightningModule):
    """Time of the matrix products of a block on a GPU, dense and 2:4, with random weights.

    Metrics, for each of `LlamaShapes.products`, each number of tokens and each of `KERNELS`:
    `test/<product>_<tokens>_ms` (dense, milliseconds), `test/<product>_<tokens>_<kernel>_speedup` (dense time over 2:4
    time, below 1 if 2:4 is slower); `test/<kernel>_speedup` (median over all), `test/speedup` (largest of these).

    Args:
        network: shapes of the weights.
        dtype: "float16" or "bfloat16".
        backends: names among "cutlass" and "cusparselt".
        seconds_per_timing: duration of each measurement.
        cuda_graphs: replay CUDA graphs, which leaves out the time that Python needs to launch a product.

    Raises:
        ValueError: if dtype or backends are unknown.
    """

    tasks = ("matrix-products",)
    distributed = False

    def __init__(
        self,
        network: LlamaShapes,
        dtype: str = "float16",
        backends: Sequence[str] = tuple(KERNELS),
        seconds_per_timing: float = 0.2,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        if unknown := set(backends) - set(KERNELS):
            raise ValueError(
                f"method.backends has the unknown {', '.join(sorted(unknown))}; choose from {', '.join(KERNELS)}"
            )
        self.shapes, self.weight_dtype, self.backends = network, find_dtype(dtype), list(backends)
        self.seconds_per_timing = seconds_per_timing
        self.timing: Timing = graph_milliseconds if cuda_graphs else launch_milliseconds
        self.dense: dict[tuple[str, int], float] = {}  # milliseconds, by product and tokens
        self.speedups: dict[tuple[str, int], dict[str, float]] = {}  # by product and tokens, then by kernel

    def prepare(self, data: Any) -> None:
        """Raise ValueError if there is no GPU."""
        if not torch.cuda.is_available():
            raise ValueError(
                "method=esparse/sparse_gemm needs a GPU with 2:4 tensor cores, and torch finds none: set trainer=gpu "
                "on a machine that has one. method=esparse/memory needs none"
            )

    def test_step(self, tokens: int, index: int) -> None:
        """Time all products for a number of tokens."""
        backends = usable_backends(self.backends, self.weight_dtype, self.device)
        for product, shape in self.shapes.products.items():
            weight = random_2to4(*shape, self.weight_dtype, self.device)
            dense, kernels = time_product(weight, tokens, backends, self.timing, self.seconds_per_timing)
            self.dense[product, tokens] = dense
            self.speedups[product, tokens] = {name: dense / k.milliseconds for name, k in kernels.items()}

    def on_test_epoch_end(self) -> None:
        """Log all metrics."""
        metrics = {f"{product}_{tokens}_ms": ms for (product, tokens), ms in self.dense.items()}
        by_kernel: dict[str, list[float]] = {}
        for (product, tokens), speedups in self.speedups.items():
            for name, value in speedups.items():
                metrics[f"{product}_{tokens}_{name}_speedup"] = value
                by_kernel.setdefault(name, []).append(value)
        medians = {f"{name}_speedup": statistics.median(values) for name, values in by_kernel.items()}
        if medians:
            metrics |= medians | {"speedup": max(medians.values())}
        self.log_dict({f"test/{name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()})

    def figures(self) -> dict[str, Any]:
        """Return the plot of the speed-up against the number of tokens."""
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.4), layout="constrained")
        for product in self.shapes.products:
            best = {
                n: max(values.values()) for (name, n), values in self.speedups.items() if name == product and values
            }
            axes.plot(list(best), list(best.values()), marker="o", label=product)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlabel="tokens", ylabel="speed-up of 2:4 over dense, best kernel")
        axes.legend()
        return {"speedup": figure}


def random_2to4(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a normal weight (rows, columns) in which the larger two of every four are kept."""
    weight = torch.randn(rows, columns, device=device, dtype=dtype)
    return weight * NM(2, 4).mask(weight.abs())


def launch_milliseconds(product: Callable[[], Tensor], seconds: float) -> float:
    """Return the median time of a product that Python launches, warmed up, over `seconds` of calls."""
    return 1e3 * Timer("product()", globals={"product": product}).blocked_autorange(min_run_time=seconds).median


def graph_milliseconds(product: Callable[[], Tensor], seconds: float) -> float:
    """Return the median time of a product in a CUDA graph of some products, measured by CUDA events."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            product()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(PRODUCTS_PER_GRAPH):
            product()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: list[float] = []
    while len(times) < 6 or sum(times) < 1e3 * seconds:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[1:]) / PRODUCTS_PER_GRAPH


def sparse_weights(weight: Tensor, tokens: int, backends: Sequence[str]) -> Iterator[tuple[str, Tensor, str]]:
    """Yield name, semi-structured weight and remark of each kernel."""
    from methods.esparse.semi_structured import search_algorithm, semi_structured

    for backend in backends:
        yield backend, semi_structured(weight, backend), ""
        if backend == "cusparselt":
            fastest = search_algorithm(weight, None, tokens)
            yield "searched", semi_structured(weight, backend, fastest), f"algorithm {fastest}"


def time_product(
    weight: Tensor, tokens: int, backends: Sequence[str], timing: Timing, seconds: float
) -> tuple[float, dict[str, KernelTime]]:
    """Time the product of random input with a 2:4 weight.

    Args:
        weight: (R, C), 2:4.
        tokens: rows of the input.
        backends: names among "cutlass" and "cusparselt".
        timing: measures a product.
        seconds: duration of each measurement.

    Returns:
        Milliseconds of the dense product, and the time of each kernel by its name.
    """
    from methods.esparse.semi_structured import random_input, relative_error

    x = random_input(tokens, weight)
    expected = linear(x, weight)
    dense = timing(lambda: linear(x, weight), seconds)
    kernels: dict[str, KernelTime] = {}
    for name, sparse, remark in sparse_weights(weight, tokens, backends):
        error = relative_error(linear(x, sparse), expected)
        kernels[name] = KernelTime(timing(partial(linear, x, sparse), seconds), error, remark)
    return dense, kernels


def usable_backends(backends: Sequence[str], dtype: torch.dtype, device: torch.device) -> list[str]:
    """Return the backends that work on this machine, and log why the others do not."""
    usable = []
    for backend in backends:
        if reason := _obstacle(backend, dtype, device):
            log.warning("%s is left out: %s", backend, reason)
        else:
            usable.append(backend)
    return usable


def _obstacle(backend: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why a backend does not work on this machine, or None."""
    from methods.esparse.semi_structured import first_line, machine_obstacle, random_input, semi_structured

    if reason := machine_obstacle(device, backend):
        return reason
    weight = random_2to4(128, 128, dtype, device)
    try:
        linear(random_input(8, weight), semi_structured(weight, backend)).sum().item()
    except RuntimeError as error:
        return f"torch says: {first_line(error)}"
    return None
