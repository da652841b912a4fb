"""Int8 quantization with real kernels, by torchao's PT2E for x86: after training (PTQ) and in training (QAT)."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_positive
from datasets.files import atomic_write
from methods.compression import energy
from methods.compression.macs import count_macs
from methods.compression.measure import Sheet, activation_values, count_parameters
from methods.compression.memory import peak_activation_bytes
from methods.compression.optional import import_optional
from methods.compression.stage import INT8, Context, Stage
from methods.compression.training import Recipe, apply_masks

log = logging.getLogger(__name__)
PT2E = "torchao.quantization.pt2e"
Q_DQ = ("quantize_per_tensor", "dequantize_per_tensor", "quantize_per_channel", "dequantize_per_channel")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the notes of torchao on libraries for GPUs and on operators that it registers twice."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.export", "torch._export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Int8Network(nn.Module):
    """Exported graph with int8 weights. It runs as it is, or compiled to int8 kernels by Inductor.

    Args:
        graph: converted graph module, of any batch size.
        numbers: plain numbers of the float32 network: params, macs, activations.
    """

    def __init__(self, graph: nn.Module, numbers: dict[str, Any]) -> None:
        super().__init__()
        self.graph, self.numbers = graph, dict(numbers)
        self.compiled: Any = None

    def compile_kernels(self) -> None:
        """Compile the graph to int8 kernels, anew for each size of a batch; it takes up to a minute and a C++ compiler.

        With a free size Inductor takes the wrong strides for the outputs of its int8 convolutions, and fails.
        """
        import torch._inductor.config as inductor

        inductor.freezing = True
        inductor.cpp_wrapper = False
        self.compiled = torch.compile(self.graph, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return (self.graph if self.compiled is None else self.compiled)(x)

    def train(self, mode: bool = True) -> Int8Network:
        """Do nothing: an exported graph has no modes."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the graph uses."""
        graph: Any = self.graph
        used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
        return {name: attribute(self.graph, name) for name in sorted(used)}

    def own_sheet(self, x: Tensor, name: str, acc: float | None) -> Sheet:
        """Return the sheet: sizes of the tensors that the graph uses, operations of the float32 network at 8 bits."""
        tensors = self.tensors()
        bits = sum(t.numel() * t.element_size() * 8 for t in tensors.values())
        macs, bops = self.numbers["macs"], self.numbers["macs"] * 64
        joules, source = energy.estimate(bops, bits, self.numbers["activations"])
        return Sheet(
            name=name,
            acc=acc,
            params=self.numbers["params"],
            params_nonzero=sum(int(torch.count_nonzero(t)) for n, t in tensors.items()),
            bits=bits,
            bytes_file=len(self.content({})),
            macs=macs,
            macs_effective=macs,
            bops=bops,
            peak_memory=peak_activation_bytes(Int8Network(self.graph, self.numbers), x),  # not compiled
            energy_j=joules,
            energy_source=source,
            simulated=self.compiled is None,
        )

    def content(self, notes: dict[str, Any]) -> bytes:
        """Return the bytes of the .pt2 file."""
        import io

        file = io.BytesIO()
        graph = without_unused(self.graph)
        example = torch.rand(2, *self.numbers["shape"])
        with quiet():
            program = torch.export.export(
                graph, (example,), dynamic_shapes=({0: torch.export.Dim("b", min=1, max=4096)},)
            )
            extra = {"notes.json": json.dumps({"notes": notes, "numbers": self.numbers})}
            torch.export.save(program, file, extra_files=extra)
        return file.getvalue()

    def save_pt2(self, path: Path, notes: dict[str, Any]) -> Path:
        """Write the network as a .pt2 file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(self.content(notes))
        return path


def attribute(module: Any, name: str) -> Any:
    """Return an attribute of a module by its full name."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


def without_unused(graph: Any) -> Any:
    """Return a copy of a graph module without the float32 tensors that int8 ones have replaced."""
    graph = copy.deepcopy(graph)
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for module_name, module in list(graph.named_modules()):
        prefix = f"{module_name}." if module_name else ""
        for store in (module._parameters, module._buffers):
            for name in [n for n in store if prefix + n not in used]:
                del store[name]
    return graph


def load_int8(file: Path) -> tuple[Int8Network, dict[str, Any]]:
    """Return the network of a .pt2 file, and its notes. Raises ValueError if it is damaged."""
    import_optional(f"{PT2E}.quantize_pt2e", "torchao", f"{file}")  # registers the operators of the graph
    extra = {"notes.json": ""}
    try:
        with quiet():
            program = torch.export.load(file, extra_files=extra)
        content = json.loads(extra["notes.json"])
        return Int8Network(program.module(), content["numbers"]), content["notes"]
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{file} is damaged, or no int8 network of this program: {error}") from error


def quantized_nodes(graph: Any) -> int:
    """Return the number of nodes that quantize or dequantize."""
    return sum(any(name in str(node.target) for name in Q_DQ) for node in graph.graph.nodes)


def prepare(network: nn.Module, x: Tensor, qat: bool) -> nn.Module:
    """Return the exported network with observers (PTQ) or simulated quantization (QAT).

    Args:
        network: network of float32.
        x: batch of images, at least two.
        qat: prepare for training.
    """
    pt2e = import_optional(f"{PT2E}.quantize_pt2e", "torchao", "int8 quantization")
    x86 = import_optional(f"{PT2E}.quantizer.x86_inductor_quantizer", "torchao", "int8 quantization")
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=qat))
    network = copy.deepcopy(network).cpu().train(qat)
    batch = torch.export.Dim("b", min=1 if not qat else 2, max=4096)
    with quiet():
        exported = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
        return (pt2e.prepare_qat_pt2e if qat else pt2e.prepare_pt2e)(exported, quantizer)


def convert(prepared: nn.Module, network: nn.Module, x: Tensor) -> Int8Network:
    """Return the int8 network of a calibrated or trained graph.

    Raises:
        ValueError: nothing was quantized.
    """
    pt2e = import_optional(f"{PT2E}.quantize_pt2e", "torchao", "int8 quantization")
    pt2e_tools = import_optional(PT2E, "torchao", "int8 quantization")
    with quiet():
        graph = pt2e.convert_pt2e(prepared)
        pt2e_tools.allow_exported_model_train_eval(graph)
    if not quantized_nodes(graph):
        raise ValueError(
            "torchao quantized no layer of the network; its quantizer and the export do not fit each other"
        )
    network = copy.deepcopy(network).cpu().eval()
    numbers: dict[str, Any] = {
        "params": count_parameters(network)[0],
        "macs": count_macs(network, x[:1]),
        "activations": activation_values(network, x[:1]),
        "shape": list(x.shape[1:]),
    }
    return Int8Network(graph, numbers)


class PostTrainingInt8(Stage):
    """Quantize weights (per channel) and activations to int8 after training, with calibration images.

    Args:
        calib_images: images that measure the ranges of the activations.
        compile: compile to int8 kernels (a minute); without it the graph simulates them, and slowly.
    """

    result = INT8
    cpu_only = True

    def __init__(self, calib_images: int = 1000, compile: bool = True) -> None:
        check_positive("stage", calib_images=calib_images)
        self.calib_images, self.compile = calib_images, compile

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the library and the compiler."""
        import_optional(f"{PT2E}.quantize_pt2e", "torchao", "int8 quantization")
        compiler = os.environ.get("CXX", "g++")
        if self.compile and shutil.which(compiler) is None:
            raise ValueError(f"int8 kernels need the C++ compiler {compiler}; install it, or simulate by compile=false")

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Calibrate and convert."""
        images = context.images(self.calib_images).cpu()
        prepared = prepare(network, images[:2], qat=False)
        with torch.no_grad():
            for part in images.split(100):
                prepared(part)
        return self._finish(prepared, network, images, context)

    def _finish(self, prepared: nn.Module, network: nn.Module, images: Tensor, context: Context) -> nn.Module:
        converted = convert(prepared, network, images)
        with torch.no_grad():
            expected, found = network.cpu().eval()(images[:100]), converted(images[:100])
        context.numbers["output_error"] = float((found - expected).norm() / expected.norm())
        context.numbers["quantized_nodes"] = quantized_nodes(converted.graph)
        return converted

    def ready(self, network: nn.Module) -> nn.Module:
        """Return the network with compiled kernels."""
        if self.compile and isinstance(network, Int8Network):
            network.compile_kernels()
        return network


class QuantizationAwareInt8(PostTrainingInt8):
    """Train with simulated int8, then convert to int8.

    Args:
        recipe: training.
        **options: arguments of `PostTrainingInt8`.
    """

    def __init__(self, recipe: Recipe | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.recipe = recipe or Recipe(5, 0.001)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Train and convert."""
        pt2e = import_optional("torchao.quantization.pt2e", "torchao", "qat_int8")
        images = context.images(self.calib_images).cpu()
        prepared = prepare(network, images[:2], qat=True)
        trained = _ExportedTraining(prepared, pt2e)
        masks = {n: p != 0 for n, p in trained.named_parameters() if p.dim() > 1 and bool((p == 0).any())}
        after_step = (lambda net: apply_masks(net, masks)) if masks else None
        context.train(trained, self.recipe, after_step=after_step)
        trained.train(False)
        return self._finish(prepared, network, images, context)


class _ExportedTraining(nn.Module):
    """Exported graph that can be switched between training and evaluation."""

    def __init__(self, graph: nn.Module, pt2e: Any) -> None:
        super().__init__()
        self.graph = graph
        self._switch = [pt2e.move_exported_model_to_eval, pt2e.move_exported_model_to_train]

    def train(self, mode: bool = True) -> _ExportedTraining:
        """Switch the graph."""
        self.training = mode
        self._switch[int(mode)](self.graph)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.graph(x)
