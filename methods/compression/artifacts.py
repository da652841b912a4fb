"""Files of compressed networks: .dcz, .safetensors, .pt2 (int8) and .onnx, and how each is loaded back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.files import atomic_write
from methods.compression.coding.dcz import load_dcz, save_dcz
from methods.compression.optional import import_optional
from methods.compression.quantization.layers import deploy
from methods.compression.structure import all_tensors, build, describe, fill

log = logging.getLogger(__name__)


def save_artifact(path: Path, network: Any, notes: dict[str, Any]) -> Path | None:
    """Write a network as the file that suits it: .pt2 for an int8 graph, else .dcz.

    Args:
        path: place of the file, without its suffix.
        network: network.
        notes: plain values to store beside it.

    Returns:
        The file, or None for a network that cannot be written.
    """
    if hasattr(network, "save_pt2"):
        return network.save_pt2(path.with_suffix(".pt2"), notes)
    file = path.with_suffix(".dcz")
    try:
        save_dcz(file, deploy(network), notes=notes)
    except ValueError as error:
        log.warning("%s is not written: %s", file.name, error)
        return None
    return file


def artifact_of(path: Path) -> Path | None:
    """Return the file that `save_artifact` wrote for a place without suffix, or None."""
    return next((file for suffix in LOADERS if (file := path.with_suffix(suffix)).exists()), None)


def load_network(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a file and its notes; the suffix tells the format.

    Raises:
        ValueError: the file is missing, damaged, or of an unknown format.
    """
    if file.suffix not in LOADERS:
        raise ValueError(f"{file}: unknown format {file.suffix or '(none)'}; known are {', '.join(LOADERS)}")
    try:
        return LOADERS[file.suffix](file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error


def save_safetensors(file: Path, network: nn.Module, notes: dict[str, Any] | None = None) -> None:
    """Write the structure and the tensors of a network as safetensors."""
    from safetensors.torch import save_file

    content = {"structure": json.dumps(describe(network)), "notes": json.dumps(notes or {})}
    tensors = {name: tensor.contiguous().cpu().clone() for name, tensor in all_tensors(network).items()}
    with atomic_write(file) as temporary:
        save_file(tensors, temporary, metadata=content)


def load_safetensors(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a file of `save_safetensors`, and its notes.

    Raises:
        ValueError: the file is damaged, or holds weights without a structure.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            content = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if "structure" not in content:
        raise ValueError(f"{file} holds weights without the structure of their network")
    return fill(build(json.loads(content["structure"])), tensors), json.loads(content.get("notes", "{}"))


def load_pt2(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the int8 network of a file, and its notes."""
    from methods.compression.quantization.int8 import load_int8

    return load_int8(file)


class OnnxNetwork(nn.Module):
    """ONNX graph, run by onnxruntime on the CPU.

    Args:
        file: file of the graph.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        runtime = import_optional("onnxruntime", "onnxruntime", f"{file}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"{file} is no ONNX graph that onnxruntime can load: {error}") from error
        self.input = self.session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return torch.from_numpy(self.session.run(None, {self.input: x.cpu().numpy()})[0])


def export_onnx(file: Path, network: nn.Module, x: Tensor, tolerance: float = 1e-4) -> float:
    """Write a network as an ONNX graph of any batch size, and compare it with the network on a batch.

    Args:
        file: place of the file.
        network: network of float32; codes of quantized weights become constants.
        x: batch of at least two images (B, C, H, W).
        tolerance: largest accepted difference of the logits, relative to the largest logit.

    Returns:
        The relative difference.

    Raises:
        ValueError: the network cannot be exported, or the graph computes something else; nothing is written then.
    """
    import_optional("onnx", "onnx", "ONNX export")
    import_optional("onnxscript", "onnxscript", "ONNX export")
    network = deploy(network).cpu().eval()
    x = x.cpu()
    batch = torch.export.Dim("batch", min=1, max=4096)
    if hasattr(network, "whole"):
        raise ValueError(f"{file}: ONNX holds no network that images leave early; choose .dcz or .safetensors")
    options: Any = {"dynamo": True, "dynamic_shapes": ({0: batch},), "external_data": False, "verbose": False}
    with torch.no_grad(), atomic_write(file) as temporary:
        try:
            torch.onnx.export(network, (x,), str(temporary), **options)
        except Exception as error:  # of many classes, torch's own
            raise ValueError(f"{file}: the network cannot be exported to ONNX: {error}") from error
        expected = network(x)
        found = OnnxNetwork(temporary)(x)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        if not difference <= tolerance:
            raise ValueError(f"{file}: the ONNX graph differs from the network by {difference:.2g} of its logits")
    return difference


def load_onnx(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of an ONNX file; it has no notes."""
    return OnnxNetwork(file), {}


LOADERS: dict[str, Callable[[Path], tuple[nn.Module, dict[str, Any]]]] = {
    ".dcz": load_dcz,
    ".safetensors": load_safetensors,
    ".pt2": load_pt2,
    ".onnx": load_onnx,
}
