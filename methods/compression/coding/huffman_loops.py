"""Loops over the symbols of Huffman codes, compiled by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True)
def encode_loop(symbols: Any, lengths: Any, codes: Any, out: Any) -> None:
    """Write the code words of symbols into an array of zero bytes, first bit first."""
    place = 0
    for symbol in symbols:
        length, code = lengths[symbol], codes[symbol]
        for j in range(length):
            if (code >> np.uint64(length - 1 - j)) & np.uint64(1):
                out[place >> 3] |= np.uint8(128 >> (place & 7))
            place += 1


@numba.njit(cache=True)
def decode_loop(data: Any, counts: Any, order: Any, result: Any) -> int:
    """Read symbols of a canonical code into an array and return how many there were.

    Args:
        data: bytes.
        counts: number of words of each length, from length 0 on.
        order: symbols in the order of their words.
        result: array to fill.
    """
    place, total = 0, 8 * len(data)
    for i in range(len(result)):
        code, first, index, found = 0, 0, 0, False
        for length in range(1, len(counts)):
            if place >= total:
                return i
            code |= (data[place >> 3] >> (7 - (place & 7))) & 1
            place += 1
            if code - first < counts[length]:  # its place among the words of this length
                result[i] = order[index + code - first]
                found = True
                break
            index += counts[length]
            first = (first + counts[length]) << 1
            code <<= 1
        if not found:
            return i
    return len(result)
