"""Sparsity patterns: which weights are kept, given a score for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.checks import check_choice
from methods.esparse.group_ranking import ROWS_PER_CHUNK, descending_ranks, retained_score

Permutation = Callable[[Tensor, int, int], Tensor]  # scores (R, C), n, m -> permutation (C,)
LARGEST_COMPARED_GROUP = 16  # larger groups are sorted; comparing all pairs would take longer


@dataclass(frozen=True)
class Arrangement:
    """Order of the input channels in which a matrix is pruned, and the share of the score that is kept.

    Args:
        permutation: (C,) columns in their new order; None: the original order.
        retained_natural: share of the score that N:M keeps in the original order; 1 for unstructured pruning.
        retained: share of the score that N:M keeps after the permutation; 1 for unstructured pruning.
    """

    permutation: Tensor | None = None
    retained_natural: float = 1.0
    retained: float = 1.0

    def order(self, weight: Tensor) -> Tensor:
        """Return the permutation, or the original order of the columns of the weight (R, C)."""
        if self.permutation is not None:
            return self.permutation
        return torch.arange(weight.shape[1], device=weight.device)


@dataclass(frozen=True)
class NM:
    """N:M sparsity: of every M consecutive columns of a row, the N of largest score are kept (2:4, 4:8).

    The published code of Wanda, RIA and SparseGPT counts the removed weights instead; for 2:4 and 4:8 this is the same.

    Args:
        n: weights of a group that are kept.
        m: weights of a group.
        allow_remainder: let the last columns, which fill no group, stay dense.

    Raises:
        ValueError: unless 0 < n < m.
    """

    n: int
    m: int
    allow_remainder: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise ValueError(f"method.pattern={self} must keep at least 1 of M weights and fewer than M")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, pattern: str, allow_remainder: bool = False) -> NM:
        """Read "N:M". Raise ValueError if the text has another form."""
        if not isinstance(pattern, str):
            raise ValueError(
                f'method.pattern={pattern} is not text: in YAML files write it in quotes, such as "2:4" '
                "(without quotes YAML reads 2:4 as the number 124)"
            )
        if not (match := re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern.strip())):
            raise ValueError(f'method.pattern={pattern} must have the form N:M, such as "2:4": N of M weights are kept')
        return cls(int(match[1]), int(match[2]), allow_remainder)

    @property
    def ratio(self) -> float:
        """Share of the weights that are pruned."""
        return (self.m - self.n) / self.m

    def check(self, name: str, columns: int) -> None:
        """Raise ValueError if the columns of the matrix `name` do not fill whole groups."""
        if columns % self.m and not (self.allow_remainder and columns > self.m):
            raise ValueError(
                f"{name} has {columns} columns, which is no multiple of {self.m}: "
                "choose another method.pattern, or leave the last columns dense with method.allow_remainder=true"
            )

    def arrange(self, scores: Callable[[], list[Tensor]], permutation: Permutation | None) -> Arrangement:
        """Find the order of the columns for matrices that share their input.

        Args:
            scores: returns the scores (R, C) of each matrix.
            permutation: chooses the order for the stacked scores; None: the original order. Columns that fill no group
                stay at the end.
        """
        parts = scores()
        columns = parts[0].shape[1]
        whole = columns - columns % self.m
        stacked = torch.cat([part[:, :whole] for part in parts])
        grouped, remainder = torch.arange(columns, device=stacked.device).tensor_split([whole])
        total = stacked.sum(dtype=torch.float64).item() or 1.0
        share = retained_score(stacked, grouped, self.n, self.m) / total
        if permutation is None:
            return Arrangement(None, share, share)
        order = permutation(stacked, self.n, self.m)
        return Arrangement(
            permutation=torch.cat([order, remainder]),
            retained_natural=share,
            retained=retained_score(stacked, order, self.n, self.m) / total,
        )

    def mask(self, scores: Tensor) -> Tensor:
        """Return which weights are kept: (R, C) scores -> (R, C) bool. Of equal scores the leftmost is pruned first."""
        rows, columns = scores.shape
        whole = columns - columns % self.m
        kept = torch.ones(rows, columns, dtype=torch.bool, device=scores.device)
        for part, scored in zip(kept.split(ROWS_PER_CHUNK), scores.split(ROWS_PER_CHUNK), strict=True):
            part[:, :whole] = self._mask_groups(scored[:, :whole].reshape(-1, self.m)).reshape(-1, whole)
        return kept

    def _mask_groups(self, scores: Tensor) -> Tensor:
        """Return which members are kept: (G, M) scores -> (G, M) bool."""
        removed = self.m - self.n
        if self.m > LARGEST_COMPARED_GROUP:
            order = scores.argsort(dim=1, stable=True)[:, :removed]
            return torch.ones_like(scores, dtype=torch.bool).scatter_(1, order, False)
        ascending = descending_ranks(-scores.t().contiguous())
        return (ascending >= removed).t()


@dataclass(frozen=True)
class Unstructured:
    """Unstructured sparsity: a share of the weights of each row is pruned, those of smallest score (Wanda).

    Args:
        ratio: share of the weights that are pruned.

    Raises:
        ValueError: unless 0 <= ratio < 1.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"method.ratio must lie in [0, 1), got {self.ratio}")

    def check(self, name: str, columns: int) -> None:
        """Accept a matrix of any size."""

    def arrange(self, scores: Callable[[], list[Tensor]], permutation: Permutation | None) -> Arrangement:
        """Keep the original order, since unstructured pruning has no groups."""
        return Arrangement()

    def mask(self, scores: Tensor) -> Tensor:
        """Return which weights are kept: (R, C) scores -> (R, C) bool."""
        order = scores.argsort(dim=1, stable=True)[:, : int(scores.shape[1] * self.ratio)]
        return torch.ones_like(scores, dtype=torch.bool).scatter_(1, order, False)


class MatrixThreshold(Unstructured):
    """Unstructured sparsity with one threshold per matrix, as in the published code of magnitude pruning and RIA.

    The threshold is the sorted score number int(size * ratio); everything up to it is pruned: ties too, and thus at
    least one weight more than the ratio says.
    """

    def mask(self, scores: Tensor) -> Tensor:
        """Return which weights are kept: (R, C) scores -> (R, C) bool."""
        return above_threshold(scores, self.ratio)


class CumulativeThreshold(Unstructured):
    """Unstructured sparsity by Wanda's variant (`use_variant` in its code).

    In each row, the smallest scores whose sum is at most a share of the row's sum are pruned. The share is the same
    for all rows; bisection finds it such that `ratio` of the matrix is pruned, up to 0.001.
    """

    def mask(self, scores: Tensor) -> Tensor:
        """Return which weights are kept: (R, C) scores -> (R, C) bool."""
        ordered, order = scores.sort(dim=1, stable=True)
        cumulative = ordered.cumsum(1)
        total = scores.sum(1, keepdim=True)
        low, share, high = 0.0, 0.4, 0.8
        for _ in range(50):
            pruned = cumulative <= total * share
            sparsity = pruned.float().mean().item()
            if abs(sparsity - self.ratio) <= 0.001:
                break
            low, high = (share, high) if sparsity < self.ratio else (low, share)
            share = (low + high) / 2
        return torch.ones_like(pruned).scatter_(1, order, ~pruned)


GROUPS = {"row": Unstructured, "matrix": MatrixThreshold, "variant": CumulativeThreshold}
Pattern = NM | Unstructured


def above_threshold(scores: Tensor, ratio: float) -> Tensor:
    """Return which scores exceed the one number int(size * ratio) in sorted order: bool; all if the ratio is 0."""
    if not ratio:
        return torch.ones_like(scores, dtype=torch.bool)
    rank = min(int(scores.numel() * ratio) + 1, scores.numel())
    return scores > scores.flatten().kthvalue(rank).values


def make_pattern(
    pattern: str | None, ratio: float | None, group: str = "row", allow_remainder: bool = False
) -> Pattern:
    """Return the sparsity pattern that the config describes.

    Args:
        pattern: N:M, such as "2:4"; ignored where a ratio is given.
        ratio: share of the weights that unstructured pruning removes.
        group: weights that are compared by unstructured pruning, one of `GROUPS`.
        allow_remainder: let columns that fill no group of N:M stay dense.

    Raises:
        ValueError: if a value is outside its range, or neither pattern nor ratio is given.
    """
    check_choice("method.group", group, tuple(GROUPS))
    if ratio is not None:
        return GROUPS[group](ratio)
    if pattern is None:
        raise ValueError('set method.pattern, such as "2:4", or method.ratio for unstructured pruning')
    return NM.parse(pattern, allow_remainder)
