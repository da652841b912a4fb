"""SparseGPT (Frantar and Alistarh 2023): pruning column by column, the rest of each row updated to make up for it."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.esparse.patterns import NM, Unstructured
from methods.esparse.statistics import InputStatistics, Needs


def inverse_cholesky(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Upper U with inverse(H + damping mean(diag H) I) = U^T U, and which channels are dead: (C, C), (C,) bool.

    Raises ValueError where the damped matrix is not positive definite.
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
            f"the inputs' Hessian is not positive definite with method.update.damping={damping}: "
            "raise it (0.1 say), or calibrate with more tokens"
        )
    return upper, dead


class OBS:
    """Optimal brain surgeon updates in blocks of columns.

    Args:
        block: columns whose updates are applied lazily together (128). damping: share of the Hessian's mean diagonal
            that is added to it (0.01). dtype: of the arithmetic; float64 stands few calibration tokens.
    """

    needs = Needs(frozenset({"hessian"}))

    def __init__(self, block: int = 128, damping: float = 0.01, dtype: str = "float64") -> None:
        if block < 1 or damping < 0:
            raise ValueError(f"method.update: block must be positive, damping not negative; got {block} and {damping}")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"method.update.dtype must be float32 or float64, got {dtype}")
        self.block, self.damping, self.dtype = block, damping, getattr(torch, dtype)

    def scores(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        """The criterion w^2 / U_jj^2 on weights that are not updated yet: (R, C). Shuffles look at it."""
        everywhere = torch.arange(weight.shape[1], device=weight.device)
        upper, _ = inverse_cholesky(inputs.permuted_hessian(everywhere).to(self.dtype), self.damping)
        return (weight.to(self.dtype) / upper.diagonal()).square().float()

    def __call__(self, weight: Tensor, hessian: Tensor, pattern: NM | Unstructured, mask: Tensor | None) -> Tensor:
        """The pruned and updated weight (R, C). mask: (R, C) bool, True where kept, or None: chosen by the criterion
        on the updated weights as the columns are walked."""
        if isinstance(pattern, NM) and self.block % pattern.of:
            raise ValueError(f"method.update.block={self.block} is not a multiple of method.of={pattern.of}")
        weight_dtype = weight.dtype
        weight = weight.to(self.dtype).clone()
        upper, dead = inverse_cholesky(hessian.to(self.dtype), self.damping)
        weight[:, dead] = 0
        for start in range(0, weight.shape[1], self.block):
            end = min(start + self.block, weight.shape[1])
            inner = weight[:, start:end].clone()
            errors = torch.zeros_like(inner)
            u = upper[start:end, start:end]
            kept = None if mask is None else mask[:, start:end].clone()
            if kept is None and isinstance(pattern, Unstructured):
                kept = _threshold(inner, u.diagonal(), pattern.ratio)
            elif kept is None:
                kept = torch.ones_like(inner, dtype=torch.bool)
            for i in range(end - start):
                if mask is None and isinstance(pattern, NM) and i % pattern.of == 0 and i + pattern.of <= end - start:
                    group = slice(i, i + pattern.of)
                    kept[:, group] = pattern.mask((inner[:, group] / u.diagonal()[group]).square())
                column = inner[:, i]
                pruned = column * kept[:, i]
                error = (column - pruned) / u[i, i]
                inner[:, i + 1 :].addr_(error, u[i, i + 1 :], alpha=-1)
                inner[:, i] = pruned
                errors[:, i] = error
            weight[:, start:end] = inner
            weight[:, end:].addmm_(errors, upper[start:end, end:], alpha=-1)
        return weight.to(weight_dtype)


def _threshold(weight: Tensor, diagonal: Tensor, ratio: float) -> Tensor:
    """As published: one threshold for the block, everything up to it goes."""
    criterion = (weight / diagonal).square()
    if not ratio:
        return torch.ones_like(criterion, dtype=torch.bool)
    return criterion > criterion.flatten().kthvalue(min(int(criterion.numel() * ratio) + 1, criterion.numel())).values
