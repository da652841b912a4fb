"""The measurement sheet of a network: size, operations, latency, memory and energy side by side."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.compression import energy as energy_sources
from methods.compression.coding.dcz import encode_network
from methods.compression.coding.encoding import choose_layout, raw_bytes
from methods.compression.latency import forward_call, speedup, summarize, time_in_turns
from methods.compression.layers import output_shapes
from methods.compression.macs import COUNTED, bit_operations, count_macs, effective_macs, layer_macs
from methods.compression.memory import peak_activation_bytes
from methods.compression.quantization.layers import coded_weight, deploy, is_quantized, plain
from methods.compression.structure import all_tensors


@dataclass
class Sheet:
    """Measurements of a network.

    Args:
        name: name of the row.
        acc: accuracy, a fraction, or None.
        params: number of weights and other trained numbers.
        params_nonzero: those that are not zero.
        bits: exact bits of storage without Huffman coding and without the file's header.
        bytes_file: size of the artefact's file; None if the network cannot be written.
        bytes_gzip: size of the float32 tensors under gzip -9, for comparison.
        macs: multiply-accumulates of one image.
        macs_effective: those with weights that are not zero (theoretical).
        bops: multiply-accumulates x bits of weight x bits of input.
        peak_memory: largest number of bytes of activations alive at once, one image.
        latency_ms: median milliseconds of one image; None if not measured.
        latency_p90: 90th percentile.
        latency_iqr: distance of the quartiles.
        speedup: latency of the first row divided by this one's, measured in turns.
        energy_j: joules of one image.
        energy_source: sensor, or `model45nm` for an estimate.
        simulated: whether low-bit arithmetic is simulated in floating point, so that the latency says nothing about it.
        more: further numbers.
    """

    name: str
    acc: float | None = None
    params: int = 0
    params_nonzero: int = 0
    bits: int = 0
    bytes_file: int | None = None
    bytes_gzip: int | None = None
    macs: int = 0
    macs_effective: int = 0
    bops: int = 0
    peak_memory: int = 0
    latency_ms: float | None = None
    latency_p90: float | None = None
    latency_iqr: float | None = None
    speedup: float | None = None
    energy_j: float | None = None
    energy_source: str = "model45nm"
    simulated: bool = False
    more: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return all numbers by name."""
        content = asdict(self)
        return content | content.pop("more")


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Return the number of trained numbers of a network and of those that are not zero.

    Integer codes of weights count as the weights that they stand for; statistics of batch normalisation do not count.
    """
    tensors = [p.detach() for p in network.parameters()]
    coded = [module for module in network.modules() if hasattr(module, "code_bits")]
    tensors += [coded_weight(module) for module in coded]
    return sum(t.numel() for t in tensors), sum(int(torch.count_nonzero(t)) for t in tensors)


def storage_bits(network: nn.Module) -> int:
    """Return the exact bits of a network's tensors: weights in their cheapest lossless layout, no Huffman codes.

    Scales, codebooks, indices and statistics of batch normalisation are counted.
    """
    network, total = deploy(network), 0
    for name, tensor in all_tensors(network).items():
        owner, _, own_name = name.rpartition(".")
        code_bits = getattr(network.get_submodule(owner), "code_bits", {}).get(own_name)
        total += tensor.numel() * code_bits if code_bits else choose_layout(tensor).bits
    return total


def gzip_bytes(network: nn.Module) -> int:
    """Return the size of all tensors under gzip -9."""
    return len(gzip.compress(b"".join(map(raw_bytes, all_tensors(network).values())), 9))


def file_bytes(network: nn.Module) -> int | None:
    """Return the size of the network's .dcz file, or None if it cannot be written."""
    try:
        return len(encode_network(deploy(network)))
    except ValueError:
        return None


def activation_values(network: nn.Module, x: Tensor) -> int:
    """Return the number of outputs of all convolutions and linear layers."""
    return sum(shape.numel() for shape in output_shapes(network, x, COUNTED).values())


def measure(network: Any, x: Tensor, name: str = "network", acc: float | None = None) -> Sheet:
    """Return the sheet of a network, without latencies.

    A network of other modules (such as an exported int8 graph) gives its own numbers by a method `own_sheet`. One that
    images leave early says by `whole()` how all of it runs, and by `reached(layer)` for which share of the images a
    layer does: operations are those of a mean image.

    Args:
        network: network; it is not changed.
        x: one image (1, C, H, W).
        name: name of the row.
        acc: its accuracy.
    """
    if hasattr(network, "own_sheet"):
        return network.own_sheet(x, name, acc)
    network = copy.deepcopy(network).eval()
    stored = deploy(network)
    whole = network.whole() if hasattr(network, "whole") else network
    counts, macs = layer_macs(whole, x), count_macs(whole, x)
    if hasattr(network, "reached"):
        counts = {layer: round(count * network.reached(layer)) for layer, count in counts.items()}
        macs = sum(counts.values())
    params, nonzero = count_parameters(stored)
    bits, bops = storage_bits(network), bit_operations(network, counts)
    joules, source = energy_sources.estimate(bops, bits, activation_values(whole, x))
    return Sheet(
        name=name,
        acc=acc,
        params=params,
        params_nonzero=nonzero,
        bits=bits,
        bytes_file=file_bytes(network),
        bytes_gzip=gzip_bytes(stored),
        macs=macs,
        macs_effective=effective_macs(network, counts),
        bops=bops,
        peak_memory=peak_activation_bytes(plain(whole), x),
        energy_j=joules,
        energy_source=source,
        simulated=is_quantized(network),
    )


def add_latencies(
    sheets: list[Sheet], networks: Mapping[str, nn.Module], x: Tensor, repeats: int = 20, block_seconds: float = 0.02
) -> None:
    """Measure the latencies of several networks in turns and enter them into their sheets.

    Args:
        sheets: sheets by row; the first one is the base of the speed-ups.
        networks: networks by the names of the sheets.
        x: images (N, C, H, W). Each runs by itself, and the latency of one is their mean: images may leave a network
            with exits at different ones.
        repeats: number of blocks of each network.
        block_seconds: shortest duration of a block.
    """
    for network in networks.values():
        network.eval()
    with torch.inference_mode():
        calls = {name: forward_call(network, x) for name, network in networks.items()}
        times = {name: t / len(x) for name, t in time_in_turns(calls, repeats, block_seconds).items()}
    for sheet in sheets:
        sheet.latency_ms, sheet.latency_p90, sheet.latency_iqr = summarize(times[sheet.name])
        sheet.speedup = speedup(times[sheets[0].name], times[sheet.name])[0]


def net_score(acc: float, params: int, macs: int) -> float:
    """Return NetScore, 20 log10(accuracy^2 / sqrt(M params x M MACs)), with the accuracy in percent."""
    import math

    return 20 * math.log10((100 * acc) ** 2 / math.sqrt(max(params, 1) / 1e6 * max(macs, 1) / 1e6))


COLUMNS = {
    "acc": ("acc %", lambda v: f"{100 * v:.2f}"),
    "params": ("params", lambda v: f"{v:,}"),
    "params_nonzero": ("non-zero", lambda v: f"{v:,}"),
    "bits": ("stored KB", lambda v: f"{v / 8000:.2f}"),
    "bytes_file": ("file KB", lambda v: f"{v / 1000:.2f}"),
    "macs": ("MACs", lambda v: f"{v:,}"),
    "macs_effective": ("eff. MACs", lambda v: f"{v:,}"),
    "bops": ("bit-ops", lambda v: f"{v:.3g}"),
    "peak_memory": ("peak act. KB", lambda v: f"{v / 1000:.1f}"),
    "latency_ms": ("ms", lambda v: f"{v:.3f}"),
    "speedup": ("speed-up", lambda v: f"{v:.2f}"),
    "energy_j": ("uJ (est.)", lambda v: f"{1e6 * v:.2f}"),
}


def markdown(sheets: list[Sheet]) -> str:
    """Return sheets as a table in Markdown; rows whose kernel is simulated say so."""
    lines = ["| stage | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for sheet in sheets:
        cells = [sheet.name + (" (simulated)" if sheet.simulated else "")]
        for key, (_, form) in COLUMNS.items():
            value = getattr(sheet, key)
            cells.append("-" if value is None else form(value))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
