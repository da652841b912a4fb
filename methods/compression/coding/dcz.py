"""The file format .dcz: a whole compressed network in one file, as small as its weights allow, exact in its values.

Layout: magic "DCZ1"; lengths of header and payload (unsigned 32-bit little-endian numbers); header (JSON, zlib);
payload; SHA-256 of all that. The header holds the structure of the network (see `structure`) and how each tensor is
encoded.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.files import atomic_write
from methods.compression.coding.encoding import Encoded, Layout, Stream, decode_tensor, encode_tensor, pack, unpack
from methods.compression.structure import all_tensors, build, describe, fill

MAGIC = b"DCZ1"
PREFIX = struct.Struct("<4sII")


class DamagedFile(ValueError):
    """A file is torn, damaged, or no .dcz file."""


def encode_network(
    network: nn.Module, index_bits: int | None = None, use_huffman: bool = True, notes: dict[str, Any] | None = None
) -> bytes:
    """Return the content of a .dcz file.

    Args:
        network: network of modules of torch.nn and of this project.
        index_bits: bits of a gap between non-zero weights; None chooses the best for each tensor.
        use_huffman: code by Huffman codes where that is smaller.
        notes: plain values to store beside it, such as the data set.

    Raises:
        ValueError: the network cannot be described.
    """
    structure, payload, tensors = describe(network), bytearray(), {}
    for name, tensor in all_tensors(network).items():
        encoded = _encode_coded(network, name, tensor, use_huffman) or encode_tensor(tensor, index_bits, use_huffman)
        tensors[name] = _entry(encoded)
        for part in (encoded.values, *(stream.data for stream in encoded.streams.values())):
            payload += part
    header = zlib.compress(
        json.dumps({"structure": structure, "tensors": tensors, "notes": notes or {}}, separators=(",", ":")).encode(),
        9,
    )
    content = PREFIX.pack(MAGIC, len(header), len(payload)) + header + bytes(payload)
    return content + hashlib.sha256(content).digest()


def save_dcz(path: Path, network: nn.Module, **options: Any) -> int:
    """Write a .dcz file, whole or not at all, and return its size in bytes; options as for `encode_network`."""
    content = encode_network(network, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path.stat().st_size


def load_dcz(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a .dcz file, in eval mode, and its notes.

    Raises:
        DamagedFile: the file is torn, damaged or of another kind.
        OSError: it cannot be read.
    """
    header, payload = _open(path.read_bytes(), path)
    tensors, position = {}, 0
    try:
        for name, entry in header["tensors"].items():
            encoded, position = _encoded(entry, payload, position)
            tensors[name] = _decode_coded(encoded) if encoded.layout.kind == "packed" else decode_tensor(encoded)
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise DamagedFile(f"{path} is damaged: {error}") from error
    return fill(build(header["structure"]), tensors), header["notes"]


def _open(content: bytes, path: Path) -> tuple[dict[str, Any], bytes]:
    if len(content) < PREFIX.size or not content.startswith(MAGIC):
        raise DamagedFile(f"{path} is no .dcz file")
    _, header_size, payload_size = PREFIX.unpack_from(content)
    total = PREFIX.size + header_size + payload_size
    if len(content) != total + 32:
        raise DamagedFile(f"{path} is torn: it has {len(content)} bytes and should have {total + 32}")
    if hashlib.sha256(content[:total]).digest() != content[total:]:
        raise DamagedFile(f"{path} is damaged: its checksum does not fit")
    header = json.loads(zlib.decompress(content[PREFIX.size : PREFIX.size + header_size]))
    return header, content[PREFIX.size + header_size : total]


def _entry(encoded: Encoded) -> dict[str, Any]:
    streams = {
        name: {"bytes": len(s.data), "count": s.count, "bits": s.bits, "lengths": s.lengths}
        for name, s in encoded.streams.items()
    }
    layout = vars(encoded.layout)
    return {
        "layout": layout,
        "shape": encoded.shape,
        "dtype": encoded.dtype,
        "values": len(encoded.values),
        "streams": streams,
    }


def _encoded(entry: dict[str, Any], payload: bytes, position: int) -> tuple[Encoded, int]:
    def take(size: int) -> bytes:
        nonlocal position
        position += size
        return payload[position - size : position]

    values = take(entry["values"])
    streams = {
        name: Stream(take(spec["bytes"]), spec["count"], spec["bits"], spec["lengths"])
        for name, spec in entry["streams"].items()
    }
    return Encoded(Layout(**entry["layout"]), entry["shape"], entry["dtype"], values, streams), position


def _encode_coded(network: nn.Module, name: str, tensor: Tensor, use_huffman: bool) -> Encoded | None:
    """Return the encoding of integer codes whose module says how many bits they have (`code_bits`), else None."""
    owner, _, own_name = name.rpartition(".")
    bits = getattr(network.get_submodule(owner), "code_bits", {}).get(own_name)
    if bits is None:
        return None
    codes = tensor.detach().cpu().numpy().reshape(-1)
    layout = Layout("packed", bits, 0, codes.size)
    shape, dtype = list(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    return Encoded(layout, shape, dtype, b"", {"values": pack(codes, bits, use_huffman)})


def _decode_coded(encoded: Encoded) -> Tensor:
    dtype = getattr(torch, encoded.dtype)
    return torch.from_numpy(unpack(encoded.streams["values"])).to(dtype).reshape(encoded.shape)
