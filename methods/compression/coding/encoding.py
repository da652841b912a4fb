"""Encode a tensor in the fewest bits that give its values back: raw, sparse, shared values, or packed codes.

They come back exactly; zeros lose their sign, which no layer sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.compression.coding import huffman
from methods.compression.coding.sparse_index import absolute_index, best_index_bits, entries, relative_index

MAX_SHARED = 4096  # most different values of a tensor that is stored as numbers of a codebook
MIN_SIZE = 64  # tensors with fewer numbers are stored as they are


@dataclass(frozen=True)
class Layout:
    """Storage of one tensor.

    Args:
        kind: raw, sparse (relative index and float32 values), shared (codebook), sparse_shared.
        value_bits: bits of a stored value or of its number in the codebook.
        index_bits: bits of a gap; 0 without an index.
        entries: number of stored values, fillers included.
        codebook: number of values in the codebook.
    """

    kind: str
    value_bits: int
    index_bits: int
    entries: int
    codebook: int = 0

    @property
    def bits(self) -> int:
        """Exact number of bits before Huffman coding, codebook included."""
        return self.entries * (self.value_bits + self.index_bits) + 32 * self.codebook


@dataclass
class Stream:
    """Symbols of one kind: packed with a fixed number of bits, or Huffman coded if that is smaller.

    Args:
        data: bytes.
        count: number of symbols.
        bits: bits of a symbol when packed.
        lengths: lengths of the Huffman code words; None: packed.
    """

    data: bytes
    count: int
    bits: int
    lengths: list[int] | None = None


def choose_layout(tensor: Tensor, index_bits: int | None = None) -> Layout:
    """Return the smallest layout of a tensor.

    Args:
        tensor: tensor.
        index_bits: bits of a gap; None chooses the best.
    """
    width = tensor.element_size() * 8
    raw = Layout("raw", width, 0, tensor.numel())
    if tensor.numel() < MIN_SIZE or tensor.dtype != torch.float32:
        return raw
    values = tensor.detach().flatten().cpu().numpy()
    positions = np.flatnonzero(values)
    layouts = [raw]
    zeros = len(positions) < len(values)
    if zeros:
        bits = index_bits or best_index_bits(positions, 32)
        layouts.append(Layout("sparse", 32, bits, entries(positions, bits)))
    different = np.unique(values)
    if len(different) <= MAX_SHARED:
        value_bits = max(int(len(different) - 1).bit_length(), 1)
        layouts.append(Layout("shared", value_bits, 0, len(values), len(different)))
        if zeros:
            bits = index_bits or best_index_bits(positions, value_bits)
            count = len(different)  # zero, which fillers need, is one of them
            layouts.append(Layout("sparse_shared", value_bits, bits, entries(positions, bits), count))
    return min(layouts, key=lambda layout: layout.bits)


def raw_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor of any dtype."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def pack(symbols: np.ndarray, bits: int, use_huffman: bool) -> Stream:
    """Return symbols as a stream: Huffman coded where that is smaller, else with `bits` bits each."""
    symbols = symbols.astype(np.int64)
    if use_huffman and len(symbols):
        lengths = huffman.code_lengths(np.bincount(symbols, minlength=int(symbols.max()) + 1))
        coded = huffman.encode(symbols, lengths)
        if len(coded) + len(lengths) < len(symbols) * bits / 8:
            return Stream(coded, len(symbols), bits, lengths.tolist())
    shifts = np.arange(bits - 1, -1, -1)
    return Stream(np.packbits((symbols[:, None] >> shifts) & 1).tobytes(), len(symbols), bits)


def unpack(stream: Stream) -> np.ndarray:
    """Return the symbols of a stream, (N,) int64. Raises ValueError if it is damaged."""
    if stream.lengths is not None:
        return huffman.decode(stream.data, np.array(stream.lengths, dtype=np.uint8), stream.count)
    needed = stream.count * stream.bits
    if len(stream.data) * 8 < needed:
        raise ValueError("the packed data ends too early")
    bits = np.unpackbits(np.frombuffer(stream.data, dtype=np.uint8), count=needed).reshape(stream.count, stream.bits)
    return bits.astype(np.int64) @ (1 << np.arange(stream.bits - 1, -1, -1))


@dataclass
class Encoded:
    """Encoded tensor.

    Args:
        layout: how it is stored.
        shape: shape of the tensor.
        dtype: name of its dtype.
        values: raw bytes, stored float32 values, or the codebook.
        streams: streams of numbers of values and of gaps.
    """

    layout: Layout
    shape: list[int]
    dtype: str
    values: bytes
    streams: dict[str, Stream] = field(default_factory=dict)


def encode_tensor(tensor: Tensor, index_bits: int | None = None, use_huffman: bool = True) -> Encoded:
    """Encode a tensor; `decode_tensor` gives back the same values.

    Args:
        tensor: tensor.
        index_bits: bits of a gap; None chooses the best.
        use_huffman: code the streams by Huffman codes where that is smaller.
    """
    layout = choose_layout(tensor, index_bits)
    shape, dtype = list(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if layout.kind == "raw":
        return Encoded(layout, shape, dtype, raw_bytes(tensor))
    array = tensor.detach().cpu().contiguous().numpy()
    values = array.reshape(-1)
    streams = {}
    if "sparse" in layout.kind:
        gaps, number = relative_index(np.flatnonzero(values), layout.index_bits)
        kept = np.append(values[values != 0], np.float32(0))[number]  # -1, a filler, takes the zero at the end
        streams["gaps"] = pack(gaps, layout.index_bits, use_huffman)
        values = kept
    if layout.kind == "sparse":
        return Encoded(layout, shape, dtype, values.tobytes(), streams)
    codebook = np.unique(array)
    streams["values"] = pack(np.searchsorted(codebook, values), layout.value_bits, use_huffman)
    return Encoded(layout, shape, dtype, codebook.astype(np.float32).tobytes(), streams)


def decode_tensor(encoded: Encoded) -> Tensor:
    """Return the tensor of its encoding. Raises ValueError if the data is damaged."""
    numel = int(np.prod(encoded.shape, dtype=np.int64))
    if encoded.layout.kind == "raw":
        dtype: Any = getattr(torch, encoded.dtype)
        if not numel:
            return torch.zeros(encoded.shape, dtype=dtype)
        return torch.frombuffer(bytearray(encoded.values), dtype=dtype).reshape(encoded.shape).clone()
    values = np.frombuffer(encoded.values, dtype=np.float32)
    if "shared" in encoded.layout.kind:
        values = values[unpack(encoded.streams["values"])]
    if "sparse" in encoded.layout.kind:
        places = absolute_index(unpack(encoded.streams["gaps"]))
        if len(places) != len(values) or (len(places) and places[-1] >= numel):
            raise ValueError("the relative index does not fit the tensor")
        flat = np.zeros(numel, dtype=np.float32)
        flat[places] = values
        values = flat
    if len(values) != numel:
        raise ValueError("the stored values do not fill the tensor")
    return torch.from_numpy(values.copy()).reshape(encoded.shape)
