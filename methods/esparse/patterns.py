"""Which weights a sparsity pattern keeps, given a score for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ROWS_AT_ONCE = 256  # of a large matrix, so that what is computed from them stays in a CPU's cache


@dataclass(frozen=True)
class NM:
    """Of every `of` consecutive columns of a row, `remove` are pruned. 2:4 and 4:8 remove half.

    The last columns that fill no group stay dense where `tail` allows it.
    """

    remove: int
    of: int
    tail: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.remove < self.of:
            raise ValueError(f"method.remove must lie between 1 and method.of - 1, got {self.remove} of {self.of}")

    @property
    def keep(self) -> int:
        return self.of - self.remove

    @property
    def ratio(self) -> float:
        return self.remove / self.of

    def check(self, name: str, columns: int) -> None:
        """Raises ValueError where the columns of matrix `name` do not fill whole groups."""
        if columns % self.of and not (self.tail and columns > self.of):
            raise ValueError(
                f"{name} has {columns} columns, which is no multiple of {self.of}: "
                "choose other method.remove and method.of, or leave the last columns dense with method.tail=true"
            )

    def mask(self, scores: Tensor) -> Tensor:
        """(R, C) scores -> (R, C) bool, True where kept. Of equal scores the leftmost goes first."""
        rows, columns = scores.shape
        whole = columns - columns % self.of
        kept = torch.ones(rows, columns, dtype=torch.bool, device=scores.device)
        for part, scored in zip(kept.split(ROWS_AT_ONCE), scores.split(ROWS_AT_ONCE), strict=True):
            part[:, :whole] = self._groups(scored[:, :whole].reshape(-1, self.of)).reshape(-1, whole)
        return kept

    def _groups(self, scores: Tensor) -> Tensor:
        """(G, of) -> (G, of) bool."""
        if self.of > 16:
            order = scores.argsort(dim=1, stable=True)[:, : self.remove]
            return torch.ones_like(scores, dtype=torch.bool).scatter_(1, order, False)
        # rank by comparing all pairs: a few passes over long vectors, where sorting short rows is slow
        planes = scores.t().contiguous()
        below = torch.zeros_like(planes, dtype=torch.int8)
        for i in range(self.of):
            for j in range(i + 1, self.of):
                left_first = planes[i] <= planes[j]
                below[j] += left_first
                below[i] += ~left_first
        return (below >= self.remove).t()


@dataclass(frozen=True)
class Unstructured:
    """A share `ratio` of the weights is pruned: the smallest of each row, or of the whole matrix.

    `variant` (Wanda's): in each row, those whose scores add up to a share of the row's sum, the same share for all
    rows, found by bisection so that `ratio` of the matrix goes.
    """

    ratio: float
    group: Literal["row", "matrix", "variant"] = "row"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"method.ratio must lie in [0, 1), got {self.ratio}")
        if self.group not in ("row", "matrix", "variant"):
            raise ValueError(f"method.group must be row, matrix or variant, got {self.group}")

    def check(self, name: str, columns: int) -> None:
        """Any size will do."""

    def mask(self, scores: Tensor) -> Tensor:
        """(R, C) scores -> (R, C) bool, True where kept."""
        if self.group == "matrix":
            # as published: everything up to the threshold goes, ties and one entry more included
            count = min(int(scores.numel() * self.ratio), scores.numel() - 1)
            threshold = scores.flatten().kthvalue(count + 1).values
            return scores > threshold if self.ratio else torch.ones_like(scores, dtype=torch.bool)
        if self.group == "variant":
            return self._variant(scores)
        order = scores.argsort(dim=1, stable=True)[:, : int(scores.shape[1] * self.ratio)]
        return torch.ones_like(scores, dtype=torch.bool).scatter_(1, order, False)

    def _variant(self, scores: Tensor) -> Tensor:
        ordered, order = scores.sort(dim=1, stable=True)
        cumulative = ordered.cumsum(1)
        total = scores.sum(1, keepdim=True)
        low, share, high = 0.0, 0.4, 0.8
        for _ in range(50):
            pruned = cumulative <= total * share
            found = pruned.float().mean().item()
            if abs(found - self.ratio) <= 0.001:
                break
            low, high = (share, high) if found < self.ratio else (low, share)
            share = (low + high) / 2
        return torch.ones_like(pruned).scatter_(1, order, ~pruned)


def make_pattern(
    remove: int | None, of: int | None, ratio: float | None, group: str = "row", tail: bool = False
) -> NM | Unstructured:
    """N:M where no ratio is given. Raises ValueError."""
    if ratio is not None:
        return Unstructured(ratio, group)  # type: ignore[arg-type]
    if remove is None or of is None:
        raise ValueError("give method.remove and method.of (N:M), or method.ratio (unstructured)")
    return NM(remove, of, tail)
