"""RIA's channel permutation (Zhang et al. 2024): deal channels in a snake, then assign them to groups optimally."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.esparse.shuffle import sums_of_maxima, swap_parts


class Reallocation:
    """Called with scores (R, C), keep, of -> permutation (C,).

    Channels in rising order of their score's sum are dealt in a snake; then, for each place 0..of-1 of the groups, the
    channels at that place are assigned anew so that the kept score is largest (linear sum assignment).

    Args: assign: do the second step. parts: solve it in so many separate parts of the groups (1: exact).
    """

    def __init__(self, assign: bool = True, parts: int = 1) -> None:
        if parts < 1:
            raise ValueError(f"method.shuffle.parts must be positive, got {parts}")
        self.assign, self.parts = assign, parts

    def __call__(self, scores: Tensor, keep: int, of: int) -> Tensor:
        ranks = scores.sum(0).argsort(stable=True).view(of, -1)
        ranks = torch.stack([run.flip(0) if i % 2 else run for i, run in enumerate(ranks)])
        permutation = ranks.T.reshape(-1)
        if not self.assign:
            return permutation
        groups = permutation.numel() // of
        size = -(-groups // self.parts) * of
        return torch.cat([assign_places(scores, part, keep, of) for part in permutation.split(size)])


def assign_places(scores: Tensor, permutation: Tensor, keep: int, of: int) -> Tensor:
    """For each place in turn, the best assignment of the channels at that place to the groups: permutation (m,)."""
    from scipy.optimize import linear_sum_assignment

    permutation = permutation.clone()
    groups = torch.arange(permutation.numel() // of, device=scores.device)
    for place in range(of):
        columns = scores[:, permutation].T.contiguous()
        bars, without, _ = swap_parts(columns, keep, of, groups)
        bars = bars[place::of]  # (G, R)
        gained = sums_of_maxima(bars, columns[place::of]) - bars.sum(1, keepdim=True)
        kept = gained + without[place::of, None]  # group t with newcomer s
        _, best = linear_sum_assignment(kept.cpu().numpy(), maximize=True)
        permutation[place::of] = permutation[place::of][torch.as_tensor(best, device=scores.device)]
    return permutation
