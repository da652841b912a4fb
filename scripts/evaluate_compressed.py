"""Load a compressed network from its file alone, and measure it again.

    python -m scripts.evaluate_compressed FILE... [dataset=digits] [key=value ...]
    python -m scripts.evaluate_compressed FILE dataset=mnist --export network.onnx
    python -m scripts.evaluate_compressed FILE dataset=mnist --compile

FILE is a .dcz, .safetensors, .pt2 (int8) or .onnx file. The network and its weights come from the file; the data set is
composed as for a run. Printed are the accuracy, the size of the file, and parameters and operations. --export writes
the network as .onnx (compared with the network on a batch), .safetensors or .dcz. --compile compiles int8 kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from methods.compression.artifacts import export_onnx, load_network, save_safetensors
from methods.compression.coding.dcz import save_dcz
from methods.compression.measure import measure
from methods.compression.quantization.layers import deploy
from methods.compression.training import accuracy
from runner.config.compose import compose
from runner.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", metavar="FILE or key=value")
    parser.add_argument("--export", type=Path, help="also write the network as this file")
    parser.add_argument("--compile", action="store_true", help="compile int8 kernels")
    given = parser.parse_args(arguments)
    files = [Path(argument) for argument in given.arguments if "=" not in argument]
    overrides = [argument for argument in given.arguments if "=" in argument]
    if not files:
        parser.error("name a file")
    if given.export and len(files) > 1:
        parser.error("--export takes one file")
    try:
        data = test_data(overrides)
        for file in files:
            evaluate(file, data, given.export, given.compile)
    except (ValueError, UserError) as error:
        parser.exit(2, f"{error}\n")


def test_data(overrides: list[str]) -> Any:
    """Return the DataModule of `dataset=...`, set up."""
    from runner.main import make_data

    chosen = overrides if any(o.startswith("dataset=") for o in overrides) else ["dataset=digits", *overrides]
    return make_data(compose(["method=compression/dense", *chosen]))


def evaluate(file: Path, data: Any, export: Path | None, compile_kernels: bool) -> None:
    """Print what a file's network does on the test part.

    Raises:
        ValueError: the file is damaged, or its network is for other images or classes.
    """
    network, notes = load_network(file)
    images = data.parts["test"].images[:2].float() / 255
    check_fit(network, images, len(data.classes), file)
    if compile_kernels and hasattr(network, "compile_kernels"):
        network.compile_kernels()
    measured = accuracy(network, data.test_dataloader())
    line = f"{file}: accuracy {measured:.4f} on {len(data.parts['test'].labels)} images, {file.stat().st_size:,} bytes"
    if file.suffix != ".onnx":
        sheet = measure(network, images[:1], file.name, measured)
        line += f", {sheet.params:,} parameters ({sheet.params_nonzero:,} non-zero), {sheet.macs:,} MACs"
    print(line + (f"; stage {notes['stage']}" if "stage" in notes else ""))
    if export is not None:
        print(exported(export, network, images))


def check_fit(network: nn.Module, images: torch.Tensor, classes: int, file: Path) -> None:
    """Raise ValueError if the network does not take such images, or has another number of classes."""
    shape = list(images.shape[1:])
    try:
        with torch.no_grad():
            logits = network(images)
    except Exception as error:
        raise ValueError(f"{file}: its network does not take images of the shape {shape}: {error}") from error
    if logits.shape[1] != classes:
        raise ValueError(f"{file}: its network has {logits.shape[1]} classes, the data set has {classes}")


def exported(path: Path, network: nn.Module, images: torch.Tensor) -> str:
    """Write a network in another format and return a line on it."""
    if path.suffix == ".onnx":
        difference = export_onnx(path, network, images)
        return f"{path}: {path.stat().st_size:,} bytes, largest relative difference of the logits {difference:.1e}"
    if path.suffix == ".safetensors":
        save_safetensors(path, deploy(network))
    elif path.suffix == ".dcz":
        save_dcz(path, deploy(network))
    else:
        raise ValueError(f"--export {path}: choose .onnx, .safetensors or .dcz")
    return f"{path}: {path.stat().st_size:,} bytes"


if __name__ == "__main__":
    main()
