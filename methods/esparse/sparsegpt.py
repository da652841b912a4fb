"""SparseGPT (Frantar and Alistarh 2023): pruning column by column with optimal brain surgeon (OBS) updates.

When a weight is pruned, the weights on its right in the same row are changed to make up for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from datasets.checks import check_choice, check_not_negative, check_positive
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics
from methods.esparse.patterns import NM, Pattern, above_threshold


@dataclass(frozen=True)
class InverseFactor:
    """Cholesky factor of the inverse of the damped Hessian.

    Args:
        upper: (C, C) upper triangular U with inverse(H + damping mean(diag H) I) = U^T U.
        dead: (C,) bool, channels whose inputs are all zero.
    """

    upper: Tensor
    dead: Tensor


def inverse_cholesky(hessian: Tensor, damping: float) -> InverseFactor:
    """Factorise the inverse of the damped Hessian.

    Args:
        hessian: (C, C).
        damping: share of the mean diagonal that is added to the diagonal.

    Raises:
        ValueError: if the damped matrix is not positive definite.
    """
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    diagonal += damping * diagonal.mean()
    lower, failed = torch.linalg.cholesky_ex(hessian)
    if not failed:
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed:
        raise ValueError(
            f"the Hessian of the inputs is not positive definite with method.weight_update.damping={damping}: "
            "raise it, for example to 0.1, or calibrate with more tokens"
        )
    return InverseFactor(upper, dead)


class WeightUpdate(Protocol):
    """Pruning of a matrix, with or without an update of the weights that are kept."""

    @property
    def required(self) -> RequiredStatistics:
        """Statistics of the inputs that the update needs."""
        ...

    @property
    def work(self) -> str:
        """Name of the work in the report of times."""
        ...

    def check(self, pattern: Pattern) -> None:
        """Raise ValueError if the update does not fit the pattern."""

    def prepare(self, inputs: InputStatistics, order: Tensor) -> Any:
        """Compute what matrices with these inputs share, their columns in the given order (C,)."""

    def criteria(self, weights: list[Tensor], inputs: InputStatistics) -> list[Tensor]:
        """Return the update's own score (R, C) of each weight."""
        ...

    def __call__(self, weight: Tensor, factor: Any, pattern: Pattern, mask: Tensor | None) -> Tensor:
        """Return the pruned weight (R, C); factor: result of `prepare`."""
        ...


class OBSUpdate:
    """Optimal brain surgeon update of SparseGPT, in blocks of columns.

    Args:
        block_size: number of columns whose updates of later columns are applied together (`blocksize`, 128).
        damping: share of the Hessian's mean diagonal that is added to the diagonal (`percdamp`, 0.01).
        dtype: dtype of the arithmetic, "float32" (published) or "float64", which works with fewer calibration tokens.

    Raises:
        ValueError: if an argument is outside its range.
    """

    required = RequiredStatistics(frozenset({"hessian"}))
    work = "updates"

    def __init__(self, block_size: int = 128, damping: float = 0.01, dtype: str = "float64") -> None:
        check_positive("method.weight_update", block_size=block_size)
        check_not_negative("method.weight_update", damping=damping)
        check_choice("method.weight_update.dtype", dtype, ("float32", "float64"))
        self.block_size, self.damping, self.dtype = block_size, damping, getattr(torch, dtype)

    def check(self, pattern: Pattern) -> None:
        """Raise ValueError if a block of columns does not hold whole groups of the pattern."""
        if isinstance(pattern, NM) and self.block_size % pattern.m:
            raise ValueError(
                f"method.weight_update.block_size={self.block_size} is not a multiple of {pattern.m}, "
                f"the group size of method.pattern={pattern}"
            )

    def factorise(self, hessian: Tensor) -> InverseFactor:
        """Return the factor of the Hessian (C, C) that the update needs."""
        return inverse_cholesky(hessian.to(self.dtype), self.damping)

    def prepare(self, inputs: InputStatistics, order: Tensor) -> InverseFactor:
        """Return the factor for matrices with these inputs, their columns in the given order (C,)."""
        return self.factorise(inputs.permuted_hessian(order))

    def criteria(self, weights: list[Tensor], inputs: InputStatistics) -> list[Tensor]:
        """Return SparseGPT's criterion w^2 / U_jj^2 (R, C) of each weight before any update.

        Permutations are chosen by it. Masks are chosen later, by the criterion on updated weights.
        """
        natural = torch.arange(weights[0].shape[1], device=weights[0].device)
        diagonal = self.prepare(inputs, natural).upper.diagonal()
        return [(weight.to(self.dtype) / diagonal).square().float() for weight in weights]

    def __call__(self, weight: Tensor, factor: InverseFactor, pattern: Pattern, mask: Tensor | None) -> Tensor:
        """Return the pruned and updated weight.

        Args:
            weight: (R, C).
            factor: factor of the Hessian of its inputs.
            pattern: sparsity pattern, for a mask that is chosen here.
            mask: (R, C) bool, True where a weight is kept; None: chosen by the criterion on updated weights.

        Raises:
            ValueError: if a block of columns does not hold whole groups of the pattern.
        """
        self.check(pattern)
        weight_dtype = weight.dtype
        weight = weight.to(self.dtype).clone()
        weight[:, factor.dead] = 0
        for start in range(0, weight.shape[1], self.block_size):
            end = min(start + self.block_size, weight.shape[1])
            upper = factor.upper[start:end, start:end]
            chooser = _GivenMask(mask[:, start:end]) if mask is not None else _mask_chooser(pattern)
            weight[:, start:end], errors = _prune_block(weight[:, start:end].clone(), upper, chooser)
            weight[:, end:].addmm_(errors, factor.upper[start:end, end:], alpha=-1)
        return weight.to(weight_dtype)


class MaskOnly:
    """Pruning without a weight update: the weights that are kept stay as they are."""

    required = RequiredStatistics()
    work = "masks"

    def check(self, pattern: Pattern) -> None:
        """Accept any pattern."""

    def prepare(self, inputs: InputStatistics, order: Tensor) -> None:
        """Return nothing: masking needs no statistics."""

    def criteria(self, weights: list[Tensor], inputs: InputStatistics) -> list[Tensor]:
        """Raise ValueError, since masking has no criterion of its own."""
        raise ValueError("method.score is null, and without a weight update nothing says which weights are pruned")

    def __call__(self, weight: Tensor, factor: None, pattern: Pattern, mask: Tensor | None) -> Tensor:
        """Return the masked weight (R, C). Raise ValueError without a mask."""
        if mask is None:
            raise ValueError("without a weight update a mask is needed")
        return weight * mask


class _GivenMask:
    """Mask of a block that is known beforehand."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def start_block(self, weight: Tensor, diagonal: Tensor) -> Tensor:
        return self.mask.clone()

    def reach_column(self, column: int, kept: Tensor, weight: Tensor, diagonal: Tensor) -> None:
        """Change nothing."""


class _ThresholdMask:
    """Unstructured mask of a block: one threshold, chosen before the block's updates, as in the published code."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def start_block(self, weight: Tensor, diagonal: Tensor) -> Tensor:
        return above_threshold((weight / diagonal).square(), self.ratio)

    def reach_column(self, column: int, kept: Tensor, weight: Tensor, diagonal: Tensor) -> None:
        """Change nothing."""


class _GroupMask:
    """N:M mask of a block: each group is chosen when its first column is reached, on the weights updated so far."""

    def __init__(self, pattern: NM) -> None:
        self.pattern = pattern

    def start_block(self, weight: Tensor, diagonal: Tensor) -> Tensor:
        return torch.ones_like(weight, dtype=torch.bool)

    def reach_column(self, column: int, kept: Tensor, weight: Tensor, diagonal: Tensor) -> None:
        m = self.pattern.m
        if column % m == 0 and column + m <= weight.shape[1]:
            group = slice(column, column + m)
            kept[:, group] = self.pattern.mask((weight[:, group] / diagonal[group]).square())


_MaskChooser = _GivenMask | _ThresholdMask | _GroupMask


def _mask_chooser(pattern: Pattern) -> _MaskChooser:
    return _GroupMask(pattern) if isinstance(pattern, NM) else _ThresholdMask(pattern.ratio)


def _prune_block(weight: Tensor, upper: Tensor, chooser: _MaskChooser) -> tuple[Tensor, Tensor]:
    """Prune a block of columns from left to right.

    Args:
        weight: (R, B) weights of the block, changed in place.
        upper: (B, B) part of the Hessian's factor.
        chooser: chooses the mask.

    Returns:
        The pruned and updated weights (R, B), and the errors (R, B) that later columns make up for.
    """
    errors = torch.zeros_like(weight)
    diagonal = upper.diagonal()
    kept = chooser.start_block(weight, diagonal)
    for i in range(weight.shape[1]):
        chooser.reach_column(i, kept, weight, diagonal)
        column = weight[:, i]
        pruned = column * kept[:, i]
        error = (column - pruned) / upper[i, i]
        weight[:, i + 1 :].addr_(error, upper[i, i + 1 :], alpha=-1)
        weight[:, i] = pruned
        errors[:, i] = error
    return weight, errors
