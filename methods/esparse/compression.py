"""Lossless compression of 2:4 weights: the values that are kept and two bits for the position of each (Sparse-GEMM)."""

from __future__ import annotations

import torch
from torch import Tensor


def stored_positions(code: int) -> tuple[int, int]:
    """Return the two positions of a group that are stored, in ascending order.

    Of more than two non-zeros these are the first two. If there are fewer, the leftmost zeros are stored too.

    Args:
        code: number whose bit i says whether position i is not zero.
    """
    first, second = sorted(sorted(range(4), key=lambda position: not code >> position & 1)[:2])
    return first, second


POSITIONS = torch.tensor([stored_positions(code) for code in range(16)])


def non_zero_codes(groups: Tensor) -> Tensor:
    """Return a number for each group whose bit i says whether position i is not zero: (R, G, 4) -> (R, G) int64."""
    return ((groups != 0).long() << torch.arange(4, device=groups.device)).sum(-1)


def split_groups(weight: Tensor, permutation: Tensor | None, name: str) -> Tensor:
    """Split the columns of a weight into groups of four.

    Args:
        weight: (R, C).
        permutation: (C,) order of the columns; None: as they are.
        name: name of the weight in messages.

    Returns:
        (R, C/4, 4).

    Raises:
        ValueError: if the columns fill no groups, or the permutation is none.
    """
    if weight.dim() != 2 or weight.shape[1] % 4:
        raise ValueError(f"{name} of shape {tuple(weight.shape)} is not a matrix whose columns fill groups of four")
    weight = weight.detach()
    if permutation is not None:
        natural = torch.arange(weight.shape[1])
        if not torch.equal(permutation.cpu().long().sort().values, natural):
            raise ValueError(f"the permutation of {name} does not hold each of its {weight.shape[1]} columns once")
        weight = weight.index_select(1, permutation.to(weight.device))
    return weight.reshape(weight.shape[0], -1, 4)


def check_2to4(weight: Tensor, permutation: Tensor | None = None, name: str = "the weight") -> None:
    """Raise ValueError if a group of four columns of the weight (R, C), permuted, has more than two non-zeros."""
    _check_groups(split_groups(weight, permutation, name), name, permutation is not None)


def _check_groups(groups: Tensor, name: str, permuted: bool) -> None:
    counts = (groups != 0).sum(-1)
    if (bad := counts > 2).any():
        row, group = bad.nonzero()[0].tolist()
        columns = f"{'permuted ' * permuted}columns {4 * group} to {4 * group + 3}"
        raise ValueError(
            f"{name} is not 2:4: row {row} has {counts[row, group]} non-zeros in group {group} ({columns}); "
            f"{int(bad.sum())} groups in all have more than two"
        )


def compress(weight: Tensor, permutation: Tensor | None = None) -> dict[str, Tensor]:
    """Compress a 2:4 matrix, on its device.

    Args:
        weight: (R, C) with C divisible by 4; weight[:, permutation] is 2:4.
        permutation: (C,) order of the columns; None: as they are.

    Returns:
        values: (R, C/2) in the weight's dtype, two of each group from left to right, zeros if it has fewer.
        indices: (R, ceil(C/8)) uint8, two groups a byte, the first in the lower half. The lower two bits of a half are
            the position of the group's first value, the upper two that of the second. The last half may be unused.
        permutation: (C,) int32, if given.

    Raises:
        ValueError: if a group has more than two non-zeros, or the shapes do not fit.
    """
    groups = split_groups(weight, permutation, "the weight")
    _check_groups(groups, "the weight", permutation is not None)
    positions = POSITIONS.to(weight.device)[non_zero_codes(groups)]
    halves = (positions[..., 0] | positions[..., 1] << 2).to(torch.uint8)
    if halves.shape[1] % 2:
        halves = torch.cat([halves, halves.new_zeros(len(halves), 1)], dim=1)
    parts = {"values": groups.gather(2, positions).flatten(1), "indices": halves[:, ::2] | halves[:, 1::2] << 4}
    if permutation is not None:
        parts["permutation"] = permutation.to(weight.device, torch.int32)
    return parts


def decompress(parts: dict[str, Tensor]) -> Tensor:
    """Restore the weight (R, C) from what `compress` returns, its columns in their original order.

    Every value is exact; only the sign of a zero may change.

    Raises:
        ValueError: if the parts do not fit together.
    """
    values, indices = parts["values"], parts["indices"]
    rows, groups = len(values), values.shape[1] // 2
    if values.shape[1] % 2 or indices.shape != (rows, (groups + 1) // 2):
        raise ValueError(f"values {tuple(values.shape)} and indices {tuple(indices.shape)} do not belong to one matrix")
    halves = torch.stack([indices & 15, indices >> 4], dim=-1).flatten(1)[:, :groups].long()
    positions = torch.stack([halves & 3, halves >> 2], dim=-1)
    dense = values.new_zeros(rows, groups, 4).scatter_(2, positions, values.reshape(rows, groups, 2)).flatten(1)
    if "permutation" not in parts:
        return dense
    return torch.empty_like(dense).index_copy_(1, parts["permutation"].long(), dense)


def compressed_bytes(parts: dict[str, Tensor]) -> int:
    """Return the bytes of all parts."""
    return sum(part.numel() * part.element_size() for part in parts.values())


def matrix_bytes(rows: int, columns: int, itemsize: int) -> int:
    """Return the bytes of a compressed matrix without its permutation.

    Four weights of two bytes take 4.5 bytes instead of 8: 43.75 % less.

    Args:
        rows: rows of the matrix.
        columns: columns of the matrix.
        itemsize: bytes of a weight.
    """
    return rows * (columns // 2 * itemsize + -(-columns // 8))
