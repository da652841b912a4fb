"""Lossless storage of 2:4 weights: the values that stay, and two bits for the place of each (paper, Sparse-GEMM)."""

from __future__ import annotations

import torch
from torch import Tensor


def two_places(code: int) -> tuple[int, int]:
    """The two places of a group that are stored, ascending. code: bit i says whether place i is not zero.

    Of more than two non-zeros the first two; where there are fewer, the leftmost zeros are stored too.
    """
    first, second = sorted(sorted(range(4), key=lambda place: not code >> place & 1)[:2])
    return first, second


PLACES = torch.tensor([two_places(code) for code in range(16)])


def non_zeros(groups: Tensor) -> Tensor:
    """(R, G, 4) -> (R, G) int64, bit i set where place i is not zero."""
    bits = groups != 0
    return sum(bits[..., i].long() << i for i in range(4))


def groups_of(weight: Tensor, permutation: Tensor | None, name: str) -> Tensor:
    """(R, C) -> (R, C/4, 4), columns in the order of the permutation. Raises ValueError where they fill no groups."""
    if weight.dim() != 2 or weight.shape[1] % 4:
        raise ValueError(f"{name} of shape {tuple(weight.shape)} is no matrix whose columns fill groups of four")
    weight = weight.detach()
    if permutation is not None:
        natural = torch.arange(weight.shape[1])
        if not torch.equal(permutation.cpu().long().sort().values, natural):
            raise ValueError(f"the permutation of {name} does not hold each of its {weight.shape[1]} columns once")
        weight = weight.index_select(1, permutation.to(weight.device))
    return weight.reshape(weight.shape[0], -1, 4)


def check_2to4(weight: Tensor, permutation: Tensor | None = None, name: str = "the weight") -> None:
    """Raises ValueError where a group of four columns of weight (R, C), permuted, has more than two non-zeros."""
    check_groups(groups_of(weight, permutation, name), name, permutation is not None)


def check_groups(groups: Tensor, name: str, permuted: bool) -> None:
    counts = (groups != 0).sum(-1)
    if (bad := counts > 2).any():
        row, group = bad.nonzero()[0].tolist()
        columns = f"{'permuted ' * permuted}columns {4 * group} to {4 * group + 3}"
        raise ValueError(
            f"{name} is not 2:4: row {row} has {counts[row, group]} non-zeros in group {group} ({columns}); "
            f"of all groups {int(bad.sum())} have more than two"
        )


def compress(weight: Tensor, permutation: Tensor | None = None) -> dict[str, Tensor]:
    """The parts of a 2:4 matrix, on its device.

    Args: weight: (R, C), C divisible by 4; weight[:, permutation] is 2:4. permutation: (C,), or None.

    Returns:
        values: (R, C/2) in the weight's dtype, two of each group from left to right, zeros where it has fewer.
        indices: (R, ceil(C/8)) uint8, two groups a byte, the first in the lower half; of a half, the lower two bits are
            the place of the group's first value, the upper two that of the second. The last half may be unused.
        permutation: (C,) int32, if given.

    Raises ValueError where a group has more than two non-zeros, and for shapes that do not fit.
    """
    groups = groups_of(weight, permutation, "the weight")
    check_groups(groups, "the weight", permutation is not None)
    places = PLACES.to(weight.device)[non_zeros(groups)]
    halves = (places[..., 0] | places[..., 1] << 2).to(torch.uint8)
    if halves.shape[1] % 2:
        halves = torch.cat([halves, halves.new_zeros(len(halves), 1)], dim=1)
    parts = {"values": groups.gather(2, places).flatten(1), "indices": halves[:, ::2] | halves[:, 1::2] << 4}
    if permutation is not None:
        parts["permutation"] = permutation.to(weight.device, torch.int32)
    return parts


def decompress(parts: dict[str, Tensor]) -> Tensor:
    """The parts that `compress` gives -> the weight (R, C), columns in their natural order.

    Every value is exact; of a zero only the sign may change. Raises ValueError where the parts do not fit together.
    """
    values, indices = parts["values"], parts["indices"]
    rows, groups = len(values), values.shape[1] // 2
    if values.shape[1] % 2 or indices.shape != (rows, (groups + 1) // 2):
        raise ValueError(f"values {tuple(values.shape)} and indices {tuple(indices.shape)} are not of one matrix")
    halves = torch.stack([indices & 15, indices >> 4], dim=-1).flatten(1)[:, :groups].long()
    places = torch.stack([halves & 3, halves >> 2], dim=-1)
    dense = values.new_zeros(rows, groups, 4).scatter_(2, places, values.reshape(rows, groups, 2)).flatten(1)
    if "permutation" not in parts:
        return dense
    return torch.empty_like(dense).index_copy_(1, parts["permutation"].long(), dense)


def compressed_bytes(parts: dict[str, Tensor]) -> int:
    """Bytes of all parts."""
    return sum(part.numel() * part.element_size() for part in parts.values())


def bytes_of(rows: int, columns: int, itemsize: int) -> int:
    """Bytes of a compressed (rows, columns) matrix without its permutation; itemsize: bytes of a weight.

    Four weights of two bytes take 4.5 bytes instead of 8: 43.75 % less.
    """
    return rows * (columns // 2 * itemsize + -(-columns // 8))
