"""Inference with 2:4 weights on a GPU's sparse tensor cores (Sparse-GEMM), by torch's semi-structured tensors."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as dense_linear
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

from datasets.checks import check_choice
from methods.esparse.compression import check_2to4

log = logging.getLogger(__name__)

TENSORS = {"cutlass": SparseSemiStructuredTensorCUTLASS, "cusparselt": SparseSemiStructuredTensorCUSPARSELT}
MULTIPLES = {"cutlass": (32, 64), "cusparselt": (16, 16)}  # rows and columns of a 16-bit weight must be multiples
DTYPES = (torch.float16, torch.bfloat16)
TOLERANCE = 0.02  # of the largest output; a lost weight causes a larger error


class UnsupportedWeight(Exception):
    """This machine, or torch on it, cannot multiply such a weight. The message is the reason."""


class SparseLinear(nn.Module):
    """Linear layer with a semi-structured weight, for inference.

    Other libraries cannot read a `state_dict` with such a weight. Save the masked dense weight instead, or use
    `methods.esparse.compression`.

    Args:
        weight: semi-structured tensor of W[:, permutation] (R, C).
        bias: (R,) or None.
        permutation: (C,) or None.
    """

    permutation: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, permutation: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_buffer("permutation", permutation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: x (..., C) -> (..., R)."""
        if self.permutation is not None:
            x = x.index_select(-1, self.permutation)
        return dense_linear(x.contiguous(), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        gathered = self.permutation is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, gathered={gathered}"


def sparsify(
    model: nn.Module,
    linears: Iterable[str],
    permutations: Mapping[str, Tensor] | None = None,
    backend: str = "cusparselt",
    tokens: int = 2048,
) -> list[str]:
    """Replace 2:4 linear layers of a model by `SparseLinear`, in place.

    A layer that cannot be converted on this machine stays dense; one warning says how many and why.

    Args:
        model: model whose layers are replaced.
        linears: names of the layers.
        permutations: (C,) for some of the layers, such that W[:, permutation] is 2:4.
        backend: "cutlass" or "cusparselt".
        tokens: rows of the input for which cuSPARSELt's algorithm is searched, once per shape.

    Returns:
        Names of the layers that were replaced.

    Raises:
        ValueError: if a weight is not 2:4, or a name or the backend is unknown. Nothing is replaced then.
    """
    check_choice("backend", backend, tuple(TENSORS))
    layers = {name: find_linear(model, name) for name in linears}
    permutations = dict(permutations or {})
    if unknown := permutations.keys() - layers.keys():
        raise ValueError(f"there are permutations for layers that are not converted: {', '.join(sorted(unknown))}")
    for name, layer in layers.items():
        check_2to4(layer.weight, permutations.get(name), name)
    converter, converted = Converter(backend, tokens), []
    reasons: Counter[str] = Counter()
    for name, layer in layers.items():
        try:
            model.set_submodule(name, converter(layer, permutations.get(name)))
            converted.append(name)
        except UnsupportedWeight as reason:
            reasons[str(reason)] += 1
    if reasons:
        why = "; ".join(f"{count} because {reason}" for reason, count in reasons.items())
        log.warning(
            "%d of %d linear layers stay dense, their weights masked: %s", sum(reasons.values()), len(layers), why
        )
    return converted


def find_linear(model: nn.Module, name: str) -> nn.Linear:
    """Return the linear layer of that name. Raise ValueError if there is none."""
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear):
        raise ValueError(
            f"the model has no linear layer {name}, and GPU kernels replace nn.Linear only: for GPT-2 and mixtures of "
            "experts set method.sparse_backend=null"
        )
    return layer


class Converter:
    """Conversion of nn.Linear to SparseLinear, checked against the dense layer.

    The algorithm that was found for a shape is used for all weights of this shape.

    Args:
        backend: "cutlass" or "cusparselt".
        tokens: rows of the input for which cuSPARSELt's algorithm is searched.
    """

    def __init__(self, backend: str, tokens: int) -> None:
        self.backend, self.tokens = backend, tokens
        self.algorithms: dict[tuple[torch.Size, torch.dtype, bool], int] = {}

    @torch.no_grad()
    def __call__(self, layer: nn.Linear, permutation: Tensor | None) -> SparseLinear:
        """Convert a layer whose weight, with permuted columns, is 2:4. Raise UnsupportedWeight if that fails."""
        weight, bias = layer.weight.detach().contiguous(), layer.bias
        if reason := obstacle(weight, self.backend):
            raise UnsupportedWeight(reason)
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
            raise UnsupportedWeight(f"torch says: {first_line(error)}") from error
        if not all(error <= TOLERANCE for error in errors):
            raise UnsupportedWeight(f"the outputs of {self.backend} are not those of the masked dense layer")
        return sparse

    def algorithm(self, weight: Tensor, bias: Tensor | None) -> int:
        """Return cuSPARSELt's fastest algorithm for weights of this shape."""
        key = (weight.shape, weight.dtype, bias is None)
        if key not in self.algorithms:
            self.algorithms[key] = search_algorithm(weight, bias, self.tokens)
        return self.algorithms[key]

    @staticmethod
    def error(sparse: SparseLinear, dense: nn.Linear, rows: int) -> float:
        """Return the relative error of the sparse layer on random input of so many rows."""
        x = random_input(rows, dense.weight)
        return relative_error(sparse(x), dense(x))


def obstacle(weight: Tensor, backend: str) -> str | None:
    """Return why a weight (R, C) cannot be semi-structured on its device; None if no reason is known."""
    rows, columns = MULTIPLES[backend]
    if reason := machine_obstacle(weight.device, backend):
        return reason
    if weight.dtype not in DTYPES:
        return f"{str(weight.dtype).removeprefix('torch.')} weights are not supported, float16 and bfloat16 are"
    if weight.shape[0] % rows or weight.shape[1] % columns:
        return f"a weight of shape {tuple(weight.shape)} is not a multiple of ({rows}, {columns}), as {backend} needs"
    return None


def machine_obstacle(device: torch.device, backend: str) -> str | None:
    """Return why semi-structured tensors do not work on a device; None if no reason is known."""
    if device.type != "cuda":
        return f"the weights are on {device.type}, not on a CUDA device"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has no sparse tensor cores (compute capability below 8.0)"
    if backend == "cusparselt" and not torch.backends.cusparselt.is_available():
        return "this build of torch has no cuSPARSELt"
    return None


def semi_structured(weight: Tensor, backend: str, algorithm: int = 0) -> Tensor:
    """Return a 2:4 weight as a semi-structured tensor.

    torch drops surplus non-zeros silently: call `check_2to4` first.

    Args:
        weight: (R, C), contiguous and 2:4.
        backend: "cutlass" or "cusparselt".
        algorithm: number of cuSPARSELt's algorithm.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        return TENSORS[backend].from_dense(weight, alg_id=algorithm)


def search_algorithm(weight: Tensor, bias: Tensor | None, tokens: int) -> int:
    """Return cuSPARSELt's fastest algorithm by trying all.

    Args:
        weight: (R, C), contiguous and 2:4.
        bias: (R,) or None.
        tokens: rows of the input.
    """
    x = random_input(tokens + -tokens % 8, weight)  # torch pads to multiples of 8
    packed = getattr(semi_structured(weight, "cusparselt"), "packed")  # noqa: B009, absent from the declared type
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch._cslt_sparse_mm_search is deprecated")
        return torch._cslt_sparse_mm_search(packed, x.t(), bias, transpose_result=True)


def random_input(tokens: int, weight: Tensor) -> Tensor:
    """Return normal input (tokens, C) for a weight (R, C), without using torch's global generators."""
    generator = torch.Generator(weight.device).manual_seed(0)
    return torch.randn(tokens, weight.shape[1], generator=generator, device=weight.device, dtype=weight.dtype)


def first_line(error: Exception) -> str:
    """Return the first line of torch's message; the rest names places in torch's source."""
    return str(error).strip().partition("\n")[0]


def relative_error(output: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value; NaN if a value is not finite."""
    difference = (output - expected).abs().max().double()
    return (difference / expected.abs().max().double()).item() if difference else difference.item()
