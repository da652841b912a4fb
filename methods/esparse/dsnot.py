"""Dynamic sparse no training (DSnoT, Zhang et al. 2024, arXiv 2310.08915): swaps of pruned and kept weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.checks import check_not_negative
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics
from methods.esparse.patterns import NM, Pattern


@dataclass(frozen=True)
class ChannelMoments:
    """Statistics of the input channels.

    Args:
        total: (C,) sum over the tokens, divided by the number of sequences.
        variance: (C,) mean of each sequence's variance.
        norm: (C,) norm, with its square divided by the number of sequences.
    """

    total: Tensor
    variance: Tensor
    norm: Tensor


class DSnoT:
    """Refinement of a mask: in each row a pruned weight is grown back and a kept one pruned, cycle by cycle.

    Of the pruned weights, the one grown back lowers the expected error of the row's output most, by w E[x] / Var[x].
    Of the kept weights, the one pruned has the smallest Wanda score: within the group of the grown weight (N:M), or of
    those that lower the error in the whole row. A row stops when its error is below the threshold or would change its
    sign. The weights themselves stay as they are.

    With N:M the published rule does not ask whether the pruned weight lowers the error or raises it. A few swaps lower
    the error in the mean; many relative to the columns (`max_cycles` of a row) raise it again.

    Args:
        max_cycles: largest number of swaps of a row (`max_cycle_time`); with 0 the first mask stays as it is.
        threshold: error of a row below which it stops (`update_threshold`).
        variance_power: exponent of the variance (`pow_of_var_regrowing`).
        skip: parts of names whose layers keep their first mask (`skip_layer`, `skip_sub_layer`): "mlp" skips mlp.fc1.

    Raises:
        ValueError: if an argument is outside its range.
    """

    required = RequiredStatistics(frozenset({"norm", "moments"}))
    work = "masks"

    def __init__(
        self, max_cycles: int = 50, threshold: float = 0.1, variance_power: float = 1.0, skip: Sequence[str] = ()
    ) -> None:
        check_not_negative("method.weight_update", max_cycles=max_cycles, threshold=threshold)
        self.max_cycles, self.threshold, self.variance_power = max_cycles, threshold, variance_power
        self.skip = tuple(skip)

    def check(self, pattern: Pattern) -> None:
        """Accept any pattern."""

    def prepare(self, inputs: InputStatistics, order: Tensor) -> ChannelMoments:
        """Return the statistics of the channels in the given order (C,)."""
        return ChannelMoments(inputs.channel_sum[order], inputs.variance[order], inputs.norm[order])

    def criteria(self, weights: list[Tensor], inputs: InputStatistics) -> list[Tensor]:
        """Raise ValueError, since the refinement starts from a mask."""
        raise ValueError("method.score is null, but DSnoT refines the mask of a score: set method.score")

    def __call__(self, weight: Tensor, factor: ChannelMoments, pattern: Pattern, mask: Tensor | None) -> Tensor:
        """Return the weight (R, C) with its refined mask. Raise ValueError without a mask."""
        if mask is None:
            raise ValueError("method.score is null, but DSnoT refines the mask of a score: set method.score")
        group = pattern.m if isinstance(pattern, NM) else None
        return weight * self.refine(weight.float(), mask, factor, group)

    def refine(self, weight: Tensor, mask: Tensor, moments: ChannelMoments, group: int | None) -> Tensor:
        """Return the refined mask.

        Args:
            weight: (R, C).
            mask: (R, C) bool, True where a weight is kept.
            moments: statistics of the channels.
            group: weights of a group of N:M; None: the row is one group.

        Returns:
            (R, C) bool, with as many True in each group as before.
        """
        if group is not None:
            whole = weight.shape[1] - weight.shape[1] % group
            mask, rest = mask[:, :whole], mask[:, whole:]
            return torch.cat([self._refine(weight[:, :whole], mask, _first(moments, whole), group), rest], 1)
        return self._refine(weight, mask, moments, None)

    def _refine(self, weight: Tensor, mask: Tensor, moments: ChannelMoments, group: int | None) -> Tensor:
        effect = weight * moments.total
        mask = mask.clone()
        error = (effect * ~mask).sum(1)
        sign = error.sign()
        gain = effect / moments.variance.clamp(min=torch.finfo(torch.float32).tiny) ** self.variance_power
        order = gain.masked_fill(mask, 0).argsort(dim=1, stable=True)
        low, high = (
            torch.zeros_like(error, dtype=torch.long),
            torch.full_like(error, order.shape[1] - 1, dtype=torch.long),
        )
        scores = (weight.abs() * moments.norm).masked_fill(~mask, torch.inf)
        active, rows = torch.ones_like(error, dtype=torch.bool), torch.arange(len(error), device=error.device)
        for _ in range(self.max_cycles):
            active &= error.abs() > self.threshold
            if not active.any():
                break
            grown = order[rows, torch.where(error > 0, high, low)]
            low, high = low + (error <= 0).long(), high - (error > 0).long()
            pruned, score = _choose_pruned(scores, effect, error, grown, group)
            after = error + effect[rows, pruned] - effect[rows, grown]
            active &= (after.sign() == sign) & score.isfinite() & ~mask[rows, grown] & (low <= high + 1)
            changed = rows[active]
            mask[changed, grown[active]], mask[changed, pruned[active]] = True, False
            scores[changed, pruned[active]] = torch.inf
            error = torch.where(active, after, error)
        return mask


def _first(moments: ChannelMoments, columns: int) -> ChannelMoments:
    return ChannelMoments(moments.total[:columns], moments.variance[:columns], moments.norm[:columns])


def _choose_pruned(
    scores: Tensor, effect: Tensor, error: Tensor, grown: Tensor, group: int | None
) -> tuple[Tensor, Tensor]:
    """Return the kept weight of each row that is pruned for the grown one, and its score (inf: there is none)."""
    if group is None:
        lowers = (effect * error[:, None]) < 0
        score, pruned = scores.masked_fill(~lowers, torch.inf).min(1)
        return pruned, score
    start = grown - grown % group
    places = start[:, None] + torch.arange(group, device=grown.device)
    score, inside = scores.gather(1, places).min(1)
    return start + inside, score
