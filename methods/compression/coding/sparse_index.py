"""Relative indices of non-zero weights (Han et al. 2016, section 2): gaps of a few bits, with filler zeros."""

from __future__ import annotations

import numpy as np


def relative_index(positions: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the gaps between non-zero places; a gap that does not fit is split by entries of value zero.

    An entry stands for `gap` zeros followed by one value. A filler has the largest gap, 2^bits - 1, and the value 0.

    Args:
        positions: (N,) rising places of the non-zero values in the flattened tensor.
        bits: bits of a gap.

    Returns:
        Gaps (E,) int64 below 2^bits, and for each entry the number of its value, or -1 for a filler, (E,) int64.
    """
    gaps = np.diff(positions, prepend=-1) - 1
    span = 2**bits
    fillers = gaps // span
    ends = np.cumsum(fillers + 1) - 1  # the entry of each value
    total = int(ends[-1]) + 1 if len(ends) else 0
    entry_gaps = np.full(total, span - 1, dtype=np.int64)
    entry_gaps[ends] = gaps % span
    values = np.full(total, -1, dtype=np.int64)
    values[ends] = np.arange(len(positions))
    return entry_gaps, values


def absolute_index(gaps: np.ndarray) -> np.ndarray:
    """Return the place of each entry, fillers included, in the flattened tensor."""
    return np.cumsum(gaps + 1) - 1


def entries(positions: np.ndarray, bits: int) -> int:
    """Return the number of entries, fillers included."""
    gaps = np.diff(positions, prepend=-1) - 1
    return int((gaps // 2**bits).sum()) + len(positions)


def best_index_bits(positions: np.ndarray, value_bits: int) -> int:
    """Return the bits of a gap, 2..12, that make the entries smallest."""
    return min(range(2, 13), key=lambda bits: entries(positions, bits) * (bits + value_bits))
