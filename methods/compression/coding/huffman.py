"""Canonical Huffman codes of small alphabets, coded and decoded as whole arrays."""

from __future__ import annotations

import heapq

import numpy as np

MAX_LENGTH = 32  # bits of the longest code word


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
    codes = canonical_codes(lengths)
    length, code = lengths[symbols].astype(np.int64), codes[symbols]
    start = np.cumsum(length) - length
    bits = np.zeros(int(length.sum()), dtype=np.uint8)
    for j in range(int(lengths.max(initial=0))):
        inside = length > j
        shift = (length[inside] - 1 - j).astype(np.uint64)
        bits[start[inside] + j] = (code[inside] >> shift) & np.uint64(1)
    return np.packbits(bits).tobytes()


def decode(data: bytes, lengths: np.ndarray, count: int) -> np.ndarray:
    """Return the symbols of coded data.

    A word is looked up at every bit; then the chain of word starts is followed by pointer doubling, so there is no
    loop over symbols.

    Args:
        data: coded symbols.
        lengths: (K,) lengths of the code words.
        count: number of symbols, N.

    Returns:
        (N,) int64.

    Raises:
        ValueError: the data ends too early.
    """
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.array(sorted(np.flatnonzero(lengths), key=lambda s: (int(lengths[s]), int(s))), dtype=np.int64)
    if len(order) == 0:
        raise ValueError("coded symbols without a code")
    word_lengths = lengths[order].astype(np.uint64)
    aligned = canonical_codes(lengths)[order] << (np.uint64(MAX_LENGTH) - word_lengths)
    padded = np.frombuffer(data + bytes(8), dtype=np.uint8).astype(np.uint64)
    total = len(data) * 8
    first = sum(padded[i : i + len(data)] << np.uint64(32 - 8 * i) for i in range(5))  # 40 bits from each byte on
    offset = np.arange(8, dtype=np.uint64)
    windows = ((first[:, None] >> (np.uint64(8) - offset)) & np.uint64(0xFFFFFFFF)).reshape(-1)
    place = np.searchsorted(aligned, windows, side="right") - 1
    jump = np.minimum(np.arange(total) + word_lengths[place].astype(np.int64), total)
    jump = np.append(jump, total)
    starts = np.zeros(1, dtype=np.int64)
    while len(starts) < count:
        starts = np.concatenate([starts, jump[starts]])
        jump = jump[jump]
    starts = starts[:count]
    last = int(starts[-1])
    if last >= total or last + int(word_lengths[place[last]]) > total:
        raise ValueError("the coded data ends too early")
    return order[place[starts]]
