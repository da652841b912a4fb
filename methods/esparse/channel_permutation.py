"""Channel permutation of RIA (Zhang et al. 2024): heuristic channel reallocation, then linear sum assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.checks import check_positive
from methods.esparse.group_ranking import removal_statistics, snake_order, sums_of_maxima


class ChannelPermutation:
    """Permutation of input channels by RIA's two steps.

    Channels in rising order of their summed score are dealt to the groups in a snake. Then, for each position
    0..M-1 of the groups in turn, the channels at that position are assigned to the groups anew such that the retained
    score is largest.

    Args:
        linear_sum_assignment: do the second step (`--lsa` in the published code).
        assignment_blocks: number of separate blocks of groups in which the assignment is solved; 1 is exact.

    Raises:
        ValueError: if `assignment_blocks` is not positive.
    """

    def __init__(self, linear_sum_assignment: bool = True, assignment_blocks: int = 1) -> None:
        check_positive("method.permutation", assignment_blocks=assignment_blocks)
        self.linear_sum_assignment, self.assignment_blocks = linear_sum_assignment, assignment_blocks

    def __call__(self, scores: Tensor, n: int, m: int) -> Tensor:
        """Return the permutation (C,) for scores (R, C), of which n of every m columns are kept."""
        permutation = snake_order(scores.sum(0).argsort(stable=True), m)
        if not self.linear_sum_assignment:
            return permutation
        groups = permutation.numel() // m
        size = -(-groups // self.assignment_blocks) * m
        return torch.cat([assign_positions(scores, block, n, m) for block in permutation.split(size)])


def assign_positions(scores: Tensor, permutation: Tensor, n: int, m: int) -> Tensor:
    """Reassign the channels at each position of the groups, one position after another, by linear sum assignment.

    Args:
        scores: (R, C) scores in the original order.
        permutation: (C',) channels of the groups, to start from.
        n: weights of a group that are kept.
        m: weights of a group.

    Returns:
        Permutation (C',) whose retained score is not smaller.
    """
    from scipy.optimize import linear_sum_assignment

    permutation = permutation.clone()
    groups = torch.arange(permutation.numel() // m, device=scores.device)
    for position in range(m):
        columns = scores[:, permutation].T.contiguous()
        thresholds, without, _ = removal_statistics(columns, n, m, groups)
        thresholds = thresholds[position::m]  # (G, R)
        gained = sums_of_maxima(thresholds, columns[position::m]) - thresholds.sum(1, keepdim=True)
        retained = gained + without[position::m, None]  # of group t with the channel that group s has now
        _, best = linear_sum_assignment(retained.cpu().numpy(), maximize=True)
        permutation[position::m] = permutation[position::m][torch.as_tensor(best, device=scores.device)]
    return permutation
