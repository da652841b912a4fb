"""Weight update by the alternating direction method of multipliers (Boza 2024, arXiv 2401.02938)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.checks import check_not_negative, check_positive
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics
from methods.esparse.patterns import NM, Pattern


@dataclass(frozen=True)
class ADMMFactor:
    """Quantities that matrices with the same inputs share.

    Args:
        norm: (C,) norm of each input channel.
        gram: (C, C) damped Gram matrix of the inputs divided by their norms.
        inverse: (C, C) inverse of the Gram matrix plus rho I.
    """

    norm: Tensor
    gram: Tensor
    inverse: Tensor


class ADMMUpdate:
    """Least-squares update of the weights that are kept, with gradual choice of the mask.

    The output error ||X (V - W)||^2 over all V with the given zeros is minimised by ADMM on weights that are scaled by
    the norms of their inputs. Without a given mask, the share of pruned weights rises in the first steps by the cubic
    schedule s (1 - (1 - t / T)^3), the smallest of |V + U| first.

    Args:
        iterations: number of steps.
        mask_iterations: number of steps in which the mask is chosen (T).
        damping: share of the Gram matrix's mean diagonal that is added to the diagonal.
        rho: weight of the constraint.

    Raises:
        ValueError: if an argument is outside its range.
    """

    required = RequiredStatistics(frozenset({"hessian"}))
    work = "updates"

    def __init__(self, iterations: int = 20, mask_iterations: int = 15, damping: float = 0.1, rho: float = 1.0) -> None:
        check_positive("method.weight_update", iterations=iterations, mask_iterations=mask_iterations, rho=rho)
        check_not_negative("method.weight_update", damping=damping)
        if mask_iterations > iterations:
            raise ValueError(
                f"method.weight_update.mask_iterations={mask_iterations} exceeds method.weight_update.iterations="
                f"{iterations}"
            )
        self.iterations, self.mask_iterations, self.damping, self.rho = iterations, mask_iterations, damping, rho

    def check(self, pattern: Pattern) -> None:
        """Accept any pattern."""

    def prepare(self, inputs: InputStatistics, order: Tensor) -> ADMMFactor:
        """Return what matrices with these inputs share, their columns in the given order (C,)."""
        gram = inputs.permuted_hessian(order)
        norm = gram.diagonal().sqrt() + 1e-8
        gram = gram / norm / norm[:, None]
        gram.diagonal().add_(self.damping * gram.diagonal().mean())
        shifted = gram.clone()
        shifted.diagonal().add_(self.rho)
        return ADMMFactor(norm, gram, torch.cholesky_inverse(torch.linalg.cholesky(shifted)))

    def criteria(self, weights: list[Tensor], inputs: InputStatistics) -> list[Tensor]:
        """Return the score (R, C) of each weight before any update: its size times the norm of its input."""
        natural = torch.arange(weights[0].shape[1], device=weights[0].device)
        norm = inputs.permuted_hessian(natural).diagonal().sqrt()
        return [(weight.double() * norm).abs().float() for weight in weights]

    def __call__(self, weight: Tensor, factor: ADMMFactor, pattern: Pattern, mask: Tensor | None) -> Tensor:
        """Return the pruned and updated weight.

        Args:
            weight: (R, C).
            factor: result of `prepare`.
            pattern: sparsity pattern, for a mask that is chosen here.
            mask: (R, C) bool, True where a weight is kept; None: chosen here.
        """
        scaled = weight.double() * factor.norm
        target = scaled @ factor.gram
        dual = torch.zeros_like(scaled)
        kept = torch.ones_like(scaled, dtype=torch.bool) if mask is None else mask
        for step in range(self.iterations):
            if mask is None and step < self.mask_iterations:
                share = 1 - (1 - (step + 1) / self.mask_iterations) ** 3
                kept = gradual_mask((scaled + dual).abs(), pattern, share)
            sparse = (scaled + dual) * kept
            dual += scaled - sparse
            scaled = (target + self.rho * (sparse - dual)) @ factor.inverse
        return ((scaled + dual) * kept / factor.norm).to(weight.dtype)


def gradual_mask(scores: Tensor, pattern: Pattern, share: float) -> Tensor:
    """Return which weights are kept when a share of all that the pattern prunes is pruned: (R, C) -> (R, C) bool.

    Args:
        scores: (R, C).
        pattern: sparsity pattern that is reached with share 1. For N:M, the N largest of a group are never pruned.
        share: share of the pruned weights, 0 to 1.
    """
    if not isinstance(pattern, NM):
        return type(pattern)(pattern.ratio * share).mask(scores)
    candidates = scores.masked_fill(pattern.mask(scores), torch.inf)
    count = int(scores.numel() * pattern.ratio * share)
    return candidates >= candidates.flatten().kthvalue(count + 1).values
