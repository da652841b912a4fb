"""Inference with 2:4 weights on a GPU's sparse tensor cores (paper, Sparse-GEMM): torch's semi-structured tensors."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as dense_linear
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

from methods.esparse.compress import check_2to4

log = logging.getLogger(__name__)

TENSORS = {"cutlass": SparseSemiStructuredTensorCUTLASS, "cusparselt": SparseSemiStructuredTensorCUSPARSELT}
MULTIPLES = {"cutlass": (32, 64), "cusparselt": (16, 16)}  # rows and columns of a 16-bit weight are multiples of these
DTYPES = (torch.float16, torch.bfloat16)
TOLERANCE = 0.02  # of the largest output; a lost weight shows as more


class Unsupported(Exception):
    """This machine, or torch on it, cannot multiply such a weight. Says why, after `because`."""


class SparseLinear(nn.Module):
    """A linear layer with a semi-structured weight: x (..., C) -> (..., R).

    For inference alone, made where it is used: the weight moves to the CPU at most, and other libraries cannot read a
    `state_dict` with it. Save the masked dense weights instead, or `methods.esparse.compress`.

    Args: weight: of W[:, permutation] (R, C), semi-structured. bias: (R,) or None. permutation: (C,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, permutation: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_buffer("permutation", permutation)

    def forward(self, x: Tensor) -> Tensor:
        if self.permutation is not None:
            x = x.index_select(-1, self.permutation)
        return dense_linear(x.contiguous(), self.weight, self.bias)

    def extra_repr(self) -> str:
        gathered = self.permutation is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, gathered={gathered}"


def sparsify(
    model: nn.Module,
    linears: Iterable[str],
    permutations: Mapping[str, Tensor] | None = None,
    backend: str = "cusparselt",
    tokens: int = 2048,
) -> list[str]:
    """Replaces 2:4 linear layers of a model, in place, by `SparseLinear`; returns the names of those that were.

    A layer that cannot be converted here stays as it is; one warning says how many and why.

    Args:
        linears: names of the layers. permutations: for some of them (C,), such that W[:, permutation] is 2:4.
        backend: cutlass or cusparselt.
        tokens: rows of input for which cuSPARSELt's algorithm is searched, once a shape.

    Raises ValueError, with nothing replaced, where a weight is not 2:4, or a name or the backend is not known.
    """
    if backend not in TENSORS:
        raise ValueError(f"the backend is one of {', '.join(TENSORS)}, got {backend}")
    layers = {name: find_linear(model, name) for name in linears}
    permutations = dict(permutations or {})
    if unknown := permutations.keys() - layers.keys():
        raise ValueError(f"permutations of layers that are not to be converted: {', '.join(sorted(unknown))}")
    for name, layer in layers.items():
        check_2to4(layer.weight, permutations.get(name), name)
    converter, converted, reasons = Converter(backend, tokens), [], Counter()
    for name, layer in layers.items():
        try:
            model.set_submodule(name, converter(layer, permutations.get(name)))
            converted.append(name)
        except Unsupported as reason:
            reasons[str(reason)] += 1
    if reasons:
        why = "; ".join(f"{count} because {reason}" for reason, count in reasons.items())
        log.warning(
            "%d of %d linear layers stay dense, their weights masked: %s", sum(reasons.values()), len(layers), why
        )
    return converted


def find_linear(model: nn.Module, name: str) -> nn.Linear:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"the model has no linear layer {name}")
    return layer


class Converter:
    """nn.Linear -> SparseLinear, tried against the dense layer. Raises Unsupported where that is not possible.

    Keeps the algorithm that was found for each shape.
    """

    def __init__(self, backend: str, tokens: int) -> None:
        self.backend, self.tokens = backend, tokens
        self.algorithms: dict[tuple, int] = {}

    @torch.no_grad()
    def __call__(self, layer: nn.Linear, permutation: Tensor | None) -> SparseLinear:
        weight, bias = layer.weight.detach().contiguous(), layer.bias
        if reason := obstacle(weight, self.backend):
            raise Unsupported(reason)
        if permutation is not None:
            permutation = permutation.to(weight.device, torch.int64)
            weight = weight.index_select(1, permutation)
        try:
            algorithm = self.algorithm(weight, bias) if self.backend == "cusparselt" else 0
            sparse = SparseLinear(semi_structured(weight, self.backend, algorithm), bias, permutation)
            errors = [self.error(sparse, layer, rows) for rows in (1, self.tokens)]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise Unsupported(f"torch says: {first_line(error)}") from error
        if not all(error <= TOLERANCE for error in errors):
            raise Unsupported(f"the outputs of {self.backend} are not those of the masked dense layer")
        return sparse

    def algorithm(self, weight: Tensor, bias: Tensor | None) -> int:
        key = (weight.shape, weight.dtype, bias is None)
        if key not in self.algorithms:
            self.algorithms[key] = search_algorithm(weight, bias, self.tokens)
        return self.algorithms[key]

    @staticmethod
    def error(sparse: SparseLinear, dense: nn.Linear, rows: int) -> float:
        x = random_input(rows, dense.weight)
        return relative_error(sparse(x), dense(x))


def obstacle(weight: Tensor, backend: str) -> str | None:
    """Why a weight (R, C) cannot be semi-structured here; None where nothing is known against it."""
    rows, columns = MULTIPLES[backend]
    if reason := machine_obstacle(weight.device, backend):
        return reason
    if weight.dtype not in DTYPES:
        return f"{str(weight.dtype).removeprefix('torch.')} weights are not supported, float16 and bfloat16 are"
    if weight.shape[0] % rows or weight.shape[1] % columns:
        return f"a weight of shape {tuple(weight.shape)} is not of multiples of ({rows}, {columns}), as {backend} needs"
    return None


def machine_obstacle(device: torch.device, backend: str) -> str | None:
    """Why semi-structured tensors do not work on a device; None where nothing is known against it."""
    if device.type != "cuda":
        return f"the weights are on {device.type}, not on a CUDA device"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has no sparse tensor cores (compute capability below 8.0)"
    if backend == "cusparselt" and not torch.backends.cusparselt.is_available():
        return "this build of torch has no cuSPARSELt"
    return None


def semi_structured(weight: Tensor, backend: str, algorithm: int = 0) -> Tensor:
    """A contiguous 2:4 weight (R, C) -> the same as a semi-structured tensor. algorithm: of cuSPARSELt.

    Weights that are not 2:4 are cut without a word: ask `check_2to4` first.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        return TENSORS[backend].from_dense(weight, alg_id=algorithm)


def search_algorithm(weight: Tensor, bias: Tensor | None, tokens: int) -> int:
    """cuSPARSELt's fastest algorithm for an input of (tokens, C) and a contiguous 2:4 weight (R, C), by trying all."""
    x = random_input(tokens + -tokens % 8, weight)  # torch pads to multiples of 8
    packed = semi_structured(weight, "cusparselt").packed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch._cslt_sparse_mm_search is deprecated")
        return torch._cslt_sparse_mm_search(packed, x.t(), bias, transpose_result=True)


def random_input(tokens: int, weight: Tensor) -> Tensor:
    """(tokens, C), normal, for a weight (R, C); leaves torch's own generators alone."""
    generator = torch.Generator(weight.device).manual_seed(0)
    return torch.randn(tokens, weight.shape[1], generator=generator, device=weight.device, dtype=weight.dtype)


def first_line(error: Exception) -> str:
    """Of torch's messages the rest is where in its source they come from."""
    return str(error).strip().partition("\n")[0]


def relative_error(output: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value; NaN where a value is not finite."""
    difference = (output - expected).abs().max().double()
    return (difference / expected.abs().max().double()).item() if difference else difference.item()
