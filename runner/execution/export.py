"""Networks of finished runs in other formats, compared with the original."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import UserError

log = logging.getLogger(__name__)
TOLERANCE = 1e-4  # largest difference from the original, as a share of its largest value
SUFFIXES = {"onnx": "onnx", "torchscript": "pt"}


def export_network(module: Any, data: Any, out: Path, kind: str) -> Path:
    """Write the network of a run, and compare it with the original on a batch of another size.

    Args:
        module: LightningModule with its weights; its `eval_network`, else its `network`, is exported.
        data: DataModule of the run, set up; its test loader gives the example.
        out: folder of the file.
        kind: `onnx` or `torchscript`.

    Returns:
        The file.

    Raises:
        UserError: the network takes no tensor, cannot be exported, or computes something else when exported.
    """
    network = (getattr(module, "eval_network", None) or module.network).eval()
    x = example_input(data)
    path = out / f"network.{SUFFIXES[kind]}"
    write, read = (write_onnx, read_onnx) if kind == "onnx" else (write_torchscript, read_torchscript)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            write(network, x, path)
    except ImportError as error:
        raise UserError(f"export={kind} needs {error.name}: pip install -c constraints.txt '.[export]'") from error
    except Exception as error:  # exporters raise errors of every kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"export={kind}: {type(network).__name__} cannot be exported: {reason}") from error
    difference = compare(network, read(path), x)
    log.info(
        "%s: differs from the original by %.1e of its largest value, with %d samples and with 1",
        path,
        difference,
        len(x),
    )
    if difference > TOLERANCE:
        path.unlink()
        raise UserError(f"export={kind}: the exported network computes something else (difference {difference:.1e})")
    return path


def example_input(data: Any) -> Tensor:
    """Return the inputs of a few test samples, (B, ...). Raises UserError if a sample is no tensor."""
    batch = next(iter(data.test_dataloader()))
    x = batch if isinstance(batch, Tensor) else getattr(batch, "x", None)
    if isinstance(batch, tuple | list) and not isinstance(x, Tensor) and isinstance(batch[0], Tensor):
        x = batch[0]
    if not isinstance(x, Tensor) or hasattr(batch, "adj"):
        raise UserError(
            f"only networks whose input is one tensor can be exported, and this one takes {type(batch).__name__}"
        )
    return x[:4].cpu()


def compare(network: nn.Module, exported: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return the largest difference between two networks for B samples and for one, as a share of the largest value."""
    differences = []
    for part in (x, x[:1]):
        with torch.no_grad():
            expected, got = network(part), exported(part)
        differences.append(float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12)))
    return max(differences)


def write_torchscript(network: nn.Module, x: Tensor, path: Path) -> None:
    """Trace the network with an example and save it."""
    torch.jit.save(torch.jit.trace(network, x, check_trace=False), path)


def read_torchscript(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the function that a TorchScript file holds."""
    return torch.jit.load(path)


def write_onnx(network: nn.Module, x: Tensor, path: Path) -> None:
    """Write the network as ONNX, with a free batch size."""
    import onnxscript  # noqa: F401  the exporter names it only after it has failed

    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        network,
        (x,),
        path,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the function that an ONNX file holds, computed by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
