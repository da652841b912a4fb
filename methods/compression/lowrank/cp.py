"""CP decomposition of convolutions into four layers (Lebedev et al. 2015, arXiv 1412.6553)."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_positive
from methods.compression.lowrank.decomposition import Decomposition, share_of
from methods.compression.stage import Context

log = logging.getLogger(__name__)
MODES = "oiyx"


def khatri_rao_product(factors: list[Tensor], skip: int) -> Tensor:
    """Return the products of all rows of all factors but one, column by column: (product of their sizes, R)."""
    result: Tensor | None = None
    for mode, factor in enumerate(factors):
        if mode != skip:
            result = factor if result is None else torch.einsum("ar,br->abr", result, factor).flatten(0, 1)
    assert result is not None
    return result


def unfold(tensor: Tensor, mode: int) -> Tensor:
    """Return a tensor as a matrix whose rows are the slices of a mode."""
    return tensor.movedim(mode, 0).flatten(1)


def balanced(factors: list[Tensor]) -> list[Tensor]:
    """Return factors whose columns have equal norms across the modes, with the same product."""
    norms = [factor.norm(dim=0).clamp(min=1e-30) for factor in factors]
    total = torch.stack(norms).log().sum(0)
    share = (total / len(factors)).exp()
    return [factor / norm * share for factor, norm in zip(factors, norms, strict=True)]


def cp_als(
    tensor: Tensor, rank: int, iterations: int = 100, restarts: int = 2, ridge: float = 1e-6, seed: int = 0
) -> tuple[list[Tensor], float]:
    """Return the factors of a CP decomposition, (size of the mode, R) each, and the relative error.

    Alternating least squares with a small ridge; the best of several starts, the first from singular vectors. The
    norm of each component is spread evenly over its factors.

    Args:
        tensor: tensor.
        rank: rank, R.
        iterations: largest number of rounds.
        restarts: number of starts.
        ridge: ridge, relative to the mean diagonal of the normal equations.
        seed: seed of the random starts.
    """
    w = tensor.detach().double()
    norm = w.norm().clamp(min=1e-30)
    generator = torch.Generator().manual_seed(seed)
    best: tuple[list[Tensor], float] | None = None
    for start in range(restarts):
        factors = _first_factors(w, rank, generator, start == 0)
        error = previous = float("inf")
        for _ in range(iterations):
            for mode in range(w.dim()):
                others = khatri_rao_product(factors, mode)
                gram = others.T @ others
                gram += ridge * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(rank, dtype=gram.dtype)
                factors[mode] = torch.linalg.solve(gram, (unfold(w, mode) @ others).T).T
            factors = balanced(factors)
            error = float((unfold(w, 0) - factors[0] @ khatri_rao_product(factors, 0).T).norm() / norm)
            if abs(previous - error) < 1e-7:
                break
            previous = error
        if best is None or error < best[1]:
            best = factors, error
    assert best is not None
    return [factor.to(tensor.dtype) for factor in best[0]], best[1]


def _first_factors(w: Tensor, rank: int, generator: torch.Generator, from_svd: bool) -> list[Tensor]:
    factors = []
    for mode, size in enumerate(w.shape):
        factor = torch.randn(size, rank, generator=generator, dtype=w.dtype)
        if from_svd:
            vectors = torch.linalg.svd(unfold(w, mode), full_matrices=False).U[:, :rank]
            factor *= 0.1
            factor[:, : vectors.shape[1]] += vectors
        factors.append(factor)
    return factors


def cp_conv(layer: nn.Conv2d, factors: list[Tensor]) -> nn.Sequential:
    """Return four convolutions: 1x1, vertical and horizontal depthwise, 1x1 with the bias of the layer.

    Args:
        layer: convolution without groups.
        factors: factors of its weight in the order output, input, vertical, horizontal.
    """
    out, inp, vertical, horizontal = factors
    rank = out.shape[1]
    kh, kw = layer.kernel_size
    (sh, sw), (ph, pw), (dh, dw) = layer.stride, layer.padding, layer.dilation  # type: ignore[misc]
    layers = [
        nn.Conv2d(layer.in_channels, rank, 1, bias=False),
        nn.Conv2d(rank, rank, (kh, 1), (sh, 1), (ph, 0), (dh, 1), groups=rank, bias=False),  # type: ignore[has-type]
        nn.Conv2d(rank, rank, (1, kw), (1, sw), (0, pw), (1, dw), groups=rank, bias=False),  # type: ignore[has-type]
        nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None),
    ]
    weights = [inp.T[:, :, None, None], vertical.T[:, None, :, None], horizontal.T[:, None, None, :]]
    for conv, weight in zip(layers, [*weights, out[:, :, None, None]], strict=True):
        conv.weight.data.copy_(weight)
    if layer.bias is not None:
        layers[-1].bias.data.copy_(layer.bias)  # type: ignore[union-attr]
    return nn.Sequential(*layers)


class CPDecomposition(Decomposition):
    """Replace convolutions by their CP decomposition. Layers that ALS cannot fit keep their weight.

    Args:
        rank: rank, or a share of the larger number of channels.
        engine: als (own) or tensorly (`parafac`).
        iterations: largest number of rounds.
        restarts: number of starts of `als`.
        max_factor: largest value of a factor; larger ones are a sign of degeneracy, and the layer is left as it is.
        **options: arguments of `Decomposition`.
    """

    def __init__(
        self,
        rank: float = 0.5,
        engine: str = "als",
        iterations: int = 100,
        restarts: int = 2,
        max_factor: float = 100.0,
        **options: Any,
    ) -> None:
        super().__init__(**({"layerwise": False} | options))
        check_positive("stage", rank=rank, iterations=iterations, restarts=restarts, max_factor=max_factor)
        if engine not in ("als", "tensorly"):
            raise ValueError(f"engine={engine} is unknown; choose from als, tensorly")
        self.rank, self.engine, self.iterations, self.restarts = rank, engine, iterations, restarts
        self.max_factor = max_factor

    def check_layer(self, layer: nn.Conv2d) -> None:
        """Check that the rank is not above the largest that a tensor of this shape can have."""
        o, i, kh, kw = layer.weight.shape
        full = min(o * i * kh * kw // size for size in (o, i, kh, kw))
        rank = share_of(self.rank, max(o, i))
        if not 1 <= rank <= full:
            raise ValueError(f"rank={rank} must be in 1..{full}, the largest rank of the tensor")

    def factors(self, layer: nn.Conv2d, context: Context) -> tuple[nn.Module, tuple[int, int]]:
        """Return the four layers."""
        o, i = layer.weight.shape[:2]
        rank = share_of(self.rank, max(o, i))
        if self.engine == "tensorly":
            factors = parafac(layer.weight, rank, self.iterations, context.seed)
        else:
            factors, error = cp_als(layer.weight.cpu(), rank, self.iterations, self.restarts, seed=context.seed)
            log.info("%s: rank %d, relative error %.3f", context.label, rank, error)
        if (
            not all(bool(f.isfinite().all()) for f in factors)
            or max(float(f.abs().max()) for f in factors) > self.max_factor
        ):
            log.warning("%s: the decomposition of a layer is degenerate; the layer stays", context.label)
            return layer, (rank, max(o, i))
        return cp_conv(layer, factors), (rank, max(o, i))


def parafac(weight: Tensor, rank: int, iterations: int, seed: int) -> list[Tensor]:
    """Return the factors of tensorly's CP decomposition, balanced."""
    from methods.compression.optional import import_optional

    tensorly = import_optional("tensorly", "tensorly", "method.stages.cp.engine=tensorly")
    decomposition = import_optional("tensorly.decomposition", "tensorly", "method.stages.cp.engine=tensorly")
    found = decomposition.parafac(
        tensorly.tensor(weight.detach().cpu().double().numpy()),
        rank,
        n_iter_max=iterations,
        random_state=seed,
        init="svd",
    )
    factors = [torch.from_numpy(factor.copy()) for factor in found.factors]
    factors[0] = factors[0] * torch.from_numpy(found.weights.copy())
    return [factor.to(weight.dtype) for factor in balanced(factors)]
