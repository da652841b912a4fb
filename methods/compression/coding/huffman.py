"""Canonical Huffman codes of small alphabets."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

MAX_LENGTH = 32  # bits of the longest code word


def loops() -> Any:
    """Return the compiled loops; they are imported when they are first used."""
    from methods.compression.coding import huffman_loops

    return huffman_loops


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return the length of each symbol's code word; 0 for symbols that do not occur, 1 for an only symbol.

    Args:
        counts: (K,) number of occurrences of each symbol.

    Returns:
        (K,) uint8.
    """
    lengths = np.zeros(len(counts), dtype=np.uint8)
    used = np.flatnonzero(counts)
    if len(used) == 1:
        lengths[used] = 1
        return lengths
    heap = [(int(counts[symbol]), int(symbol), [int(symbol)]) for symbol in used]
    heapq.heapify(heap)
    while len(heap) > 1:
        count_a, tie_a, a = heapq.heappop(heap)
        count_b, tie_b, b = heapq.heappop(heap)
        lengths[a + b] += 1
        heapq.heappush(heap, (count_a + count_b, min(tie_a, tie_b), a + b))
    return lengths


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """Return the code word of each symbol: rising by (length, symbol), from 0.

    Args:
        lengths: (K,) lengths of the code words; 0: no word.

    Returns:
        (K,) uint64.

    Raises:
        ValueError: no prefix code has such lengths.
    """
    codes = np.zeros(len(lengths), dtype=np.uint64)
    code, previous = 0, 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda s: (int(lengths[s]), int(s))):
        length = int(lengths[symbol])
        code <<= length - previous
        if code >> length or length > MAX_LENGTH:
            raise ValueError("no prefix code has these lengths")
        codes[symbol], previous, code = code, length, code + 1
    return codes


def encoded_bits(symbols: np.ndarray, alphabet: int) -> int:
    """Return the number of bits of the coded symbols, without the table of lengths."""
    counts = np.bincount(symbols, minlength=alphabet)
    return int((counts * code_lengths(counts).astype(np.int64)).sum())


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """Return the coded symbols, first bit first; the last byte is filled with zeros.

    Args:
        symbols: (N,) whole numbers below K.
        lengths: (K,) lengths of the code words, of `code_lengths`.
    """
    total = int(lengths.astype(np.int64)[symbols].sum())
    out = np.zeros((total + 7) // 8, dtype=np.uint8)
    loops().encode_loop(symbols.astype(np.int64), lengths.astype(np.int64), canonical_codes(lengths), out)
    return out.tobytes()


def decode(data: bytes, lengths: np.ndarray, count: int) -> np.ndarray:
    """Return the symbols of coded data.

    Args:
        data: coded symbols.
        lengths: (K,) lengths of the code words.
        count: number of symbols, N.

    Returns:
        (N,) int64.

    Raises:
        ValueError: the data ends too early, or is not of this code.
    """
    order = np.array(sorted(np.flatnonzero(lengths), key=lambda s: (int(lengths[s]), int(s))), dtype=np.int64)
    counts = np.bincount(lengths[order], minlength=MAX_LENGTH + 1).astype(np.int64)
    canonical_codes(lengths)  # refuses lengths of no prefix code
    result = np.zeros(count, dtype=np.int64)
    done = loops().decode_loop(np.frombuffer(data, dtype=np.uint8), counts, order, result) if count else 0
    if done < count:
        raise ValueError("the coded data ends too early")
    return result
