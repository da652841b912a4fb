"""Channel permutation of RIA (Zhang et al. 2024): heuristic channel reallocation, then linear sum assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.checks import check_positive
from methods.esparse.group_ranking import removal_at, snake_order, sums_of_maxima


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
        blocks = permutation.split(size)
        return torch.cat([block[assign_positions(scores[:, block].T.contiguous(), n, m)] for block in blocks])


def assign_positions(columns: Tensor, n: int, m: int) -> Tensor:
    """Reassign the channels at each position of the groups, one position after another, by linear sum assignment.

    Args:
        columns: (C, R) scores, transposed: a row is a column of the weight matrix; neighbours form groups of M.
        n: weights of a group that are kept.
        m: weights of a group.

    Returns:
        Order (C,) of the columns, whose retained score is not smaller.
    """
    from scipy.optimize import linear_sum_assignment

    columns = columns.clone()
    order = torch.arange(len(columns), device=columns.device)
    for position in range(m):
        thresholds, without = removal_at(columns, n, m, position)
        gained = sums_of_maxima(thresholds, columns[position::m]) - thresholds.sum(1, keepdim=True)
        retained = (gained + without[:, None]).double()  # of group t with the channel that group s has now
        places, best = linear_sum_assignment(retained.cpu().numpy(), maximize=True)
        chosen = torch.as_tensor(best, device=columns.device)
        if retained[places, chosen].sum() <= retained.trace():
            continue
        columns[position::m] = columns[position::m][chosen]
        order[position::m] = order[position::m][chosen]
    return order
