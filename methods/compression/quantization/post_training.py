"""Post-training quantization of weights to few bits, numerics only: rounding to nearest, and AdaRound."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_not_negative, check_positive
from datasets.progress import track
from methods.compression.layers import layer_of, replace_layer, selected_layers
from methods.compression.quantization.layers import (
    AffineCodes,
    Quantizer,
    per_channel,
    quantized_layer,
    straight_through,
)
from methods.compression.stage import BUILT, FLOAT, QUANTIZED, SHARED, Context, Stage


def symmetric_step(weight: Tensor, bits: int, clip: str = "max") -> Tensor:
    """Return the step of each output channel, (O,): max|w| / (2^(b-1) - 1), or the one of least squared error.

    Args:
        weight: weight (O, ...).
        bits: bits of a code.
        clip: max, or mse (the best of 80 smaller ranges).
    """
    levels = max(2 ** (bits - 1) - 1, 1)
    rows = weight.detach().flatten(1)
    step = rows.abs().amax(1).clamp(min=1e-12) / levels
    if clip == "max":
        return step
    shares = torch.linspace(0.2, 1.0, 81)
    steps = step[:, None] * shares.to(step)
    errors = torch.stack([(rows - rounded(rows, s[:, None], levels)).square().sum(1) for s in steps.unbind(1)], 1)
    return steps.gather(1, errors.argmin(1, keepdim=True))[:, 0]


def rounded(x: Tensor, step: Tensor, levels: int) -> Tensor:
    """Return x rounded to multiples of a step within +-levels."""
    return (x / step).round().clamp(-levels, levels) * step


class FixedStep(Quantizer):
    """Symmetric weights with a fixed step a channel.

    Args:
        weight: weight that the steps are measured on.
        bits: bits of a code, at least 2.
        clip: see `symmetric_step`.
    """

    step: Tensor

    def __init__(self, weight: Tensor, bits: int, clip: str = "max") -> None:
        super().__init__(bits)
        self.levels = 2 ** (bits - 1) - 1
        self.register_buffer("step", per_channel(symmetric_step(weight, bits, clip), weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return quantized weights."""
        return straight_through(x, rounded(x, self.step, self.levels))

    def codes(self, x: Tensor) -> AffineCodes:
        """Return integer codes."""
        codes = (x / self.step).round().clamp(-self.levels, self.levels).to(torch.int32) + self.levels
        return AffineCodes(codes, self.step, -self.levels * self.step)


class AffineInput(Quantizer):
    """Inputs quantized between the smallest and the largest value that calibration saw.

    Args:
        low: smallest value.
        high: largest value.
        bits: bits of a code.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, low: float, high: float, bits: int) -> None:
        super().__init__(bits)
        low, high = min(low, 0.0), max(high, 0.0)
        self.register_buffer("scale", torch.tensor(max((high - low) / (2**bits - 1), 1e-12)))
        self.register_buffer("zero", torch.round(torch.tensor(-low) / self.scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return quantized inputs."""
        codes = ((x / self.scale).round() + self.zero).clamp(0, 2**self.bits - 1)
        return straight_through(x, (codes - self.zero) * self.scale)


@torch.no_grad()
def layer_inputs(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """Return the inputs of some layers on a batch."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: tuple) -> None:
            inputs[name] = given[0]

        return hook

    handles = [layer_of(network, name).register_forward_pre_hook(keep(name)) for name in names]
    network.eval()(x)
    for handle in handles:
        handle.remove()
    return inputs


def input_range(x: Tensor, calibration: str) -> tuple[float, float]:
    """Return smallest and largest value of calibration inputs, or their 0.01 and 99.99 percentiles."""
    if calibration == "minmax":
        return float(x.min()), float(x.max())
    flat = x.flatten()
    step = max(1, flat.numel() // 1_000_000)  # torch.quantile takes at most 2^24 numbers
    low, high = torch.quantile(flat[::step], torch.tensor([0.0001, 0.9999], device=x.device)).tolist()
    return low, high


class FakePTQ(Stage):
    """Round trained weights (and inputs) to few bits without training; batch normalisation is measured anew.

    Args:
        w_bits: bits of weights, 2..8.
        a_bits: bits of inputs; 32: not quantized.
        clip: range of the weights: max or mse.
        act_calib: range of the inputs: minmax or percentile.
        calib_images: images that measure the ranges.
        ignore: layers that stay in full precision, see `selected_layers`.
        bn_recal_batches: batches that measure batch normalisation anew.
    """

    accepts = (FLOAT, BUILT, SHARED)
    result = QUANTIZED

    def __init__(
        self,
        w_bits: int = 4,
        a_bits: int = 32,
        clip: str = "max",
        act_calib: str = "minmax",
        calib_images: int = 1000,
        ignore: Sequence[str] = (),
        bn_recal_batches: int = 0,
    ) -> None:
        check_choice("clip", clip, ("max", "mse"))
        check_choice("act_calib", act_calib, ("minmax", "percentile"))
        check_positive("stage", calib_images=calib_images)
        if not 2 <= w_bits <= 8:
            raise ValueError(f"w_bits must be in 2..8, got {w_bits}; bwn_xnor does 1 bit")
        if a_bits != 32 and not 2 <= a_bits <= 8:
            raise ValueError(f"a_bits must be in 2..8, or 32 for full precision, got {a_bits}")
        self.w_bits, self.a_bits, self.clip, self.act_calib = w_bits, a_bits, clip, act_calib
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.calib_images, self.ignore, self.bn_recal_batches = calib_images, tuple(ignore), bn_recal_batches

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the names of the layers."""
        selected_layers(network, self.ignore)

    def quantizers(self, network: nn.Module, context: Context) -> dict[str, Quantizer]:
        """Return the weight quantizer of each layer."""
        layers = selected_layers(network, self.ignore)
        return {name: FixedStep(layer.weight, self.w_bits, self.clip) for name, layer in layers.items()}

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Quantize."""
        quantizers = self.quantizers(network, context)
        inputs: dict[str, Tensor] = {}
        if self.a_bits != 32:
            inputs = layer_inputs(network, list(quantizers), context.images(self.calib_images))
        for name, quantizer in quantizers.items():
            make = AffineInput(*input_range(inputs[name], self.act_calib), self.a_bits) if name in inputs else None
            replace_layer(network, name, quantized_layer(layer_of(network, name), quantizer, make))
        network.to(context.device)
        context.recalibrate(network, self.bn_recal_batches)
        return network.eval()


class RoundedWeight(FixedStep):
    """Weights rounded up or down as learned (AdaRound, Nagel et al. 2020, arXiv 2004.10568).

    Args:
        weight: weight of the layer.
        bits: bits of a code.
        clip: see `symmetric_step`.
    """

    base: Tensor
    kept: Tensor
    low, high = -0.1, 1.1  # the stretched sigmoid reaches 0 and 1

    def __init__(self, weight: Tensor, bits: int, clip: str = "mse") -> None:
        super().__init__(weight, bits, clip)
        scaled = weight.detach() / self.step
        self.register_buffer("base", scaled.floor())
        self.register_buffer("kept", weight.detach() != 0)  # a pruned weight is not rounded up
        share = ((scaled - scaled.floor() - self.low) / (self.high - self.low)).clamp(0.01, 0.99)
        self.logit = nn.Parameter(torch.log(share / (1 - share)))
        self.soft = False

    def up(self) -> Tensor:
        """Return the share h in [0, 1] by which each weight is rounded up."""
        return (torch.sigmoid(self.logit) * (self.high - self.low) + self.low).clamp(0, 1) * self.kept

    def forward(self, x: Tensor) -> Tensor:
        """Return quantized weights: with shares while they are learned, then rounded."""
        up = self.up() if self.soft else (self.up() >= 0.5).float()
        return (self.base + up).clamp(-self.levels, self.levels) * self.step

    def regularizer(self, beta: float) -> Tensor:
        """Return sum of 1 - |2h - 1|^beta, which drives shares to 0 or 1."""
        return (1 - (2 * self.up() - 1).abs().pow(beta)).sum()

    def codes(self, x: Tensor) -> AffineCodes:
        """Return integer codes."""
        codes = (self.base + (self.up() >= 0.5)).clamp(-self.levels, self.levels).to(torch.int32) + self.levels
        return AffineCodes(codes, self.step, -self.levels * self.step)


class AdaRound(FakePTQ):
    """Learn for each weight whether it is rounded up or down, layer by layer, on a few unlabelled images.

    Args:
        iterations: steps of Adam a layer.
        batch_size: images of a step.
        lr: learning rate of Adam.
        penalty: weight of the regulariser.
        **options: arguments of `FakePTQ`.
    """

    def __init__(
        self, iterations: int = 1000, batch_size: int = 32, lr: float = 1e-2, penalty: float = 0.01, **options: Any
    ) -> None:
        super().__init__(**({"clip": "mse"} | options))
        check_positive("stage", iterations=iterations, batch_size=batch_size, lr=lr)
        check_not_negative("stage", penalty=penalty)
        self.iterations, self.batch_size, self.lr, self.penalty = iterations, batch_size, lr, penalty

    def quantizers(self, network: nn.Module, context: Context) -> dict[str, Quantizer]:
        """Return the learned rounding of each layer; inputs come from the layers quantized before."""
        work = copy.deepcopy(network).eval()
        x = context.images(self.calib_images)
        generator = torch.Generator().manual_seed(context.seed)
        result: dict[str, Quantizer] = {}
        for name in track(list(selected_layers(network, self.ignore)), f"{context.label}, layer"):
            layer = layer_of(network, name)
            target_input = layer_inputs(network, [name], x)[name]
            own_input = layer_inputs(work, [name], x)[name]
            with torch.no_grad():
                target = layer(target_input)
            quantizer = RoundedWeight(layer.weight, self.w_bits, self.clip)
            self._learn(quantizer, layer, own_input, target, generator)
            replace_layer(work, name, quantized_layer(copy.deepcopy(layer), quantizer, None))
            result[name] = quantizer
        return result

    def _learn(
        self, quantizer: RoundedWeight, layer: nn.Module, x: Tensor, target: Tensor, generator: torch.Generator
    ) -> None:
        optimizer = torch.optim.Adam([quantizer.logit], self.lr)
        module = quantized_layer(copy.deepcopy(layer), quantizer, None)
        quantizer.soft = True
        for step in range(self.iterations):
            index = torch.randint(len(x), (self.batch_size,), generator=generator).to(x.device)
            loss = (module(x[index]) - target[index]).square().flatten(1).sum(1).mean()
            progress = step / self.iterations
            if progress > 0.2:  # the paper's warm start without regulariser, then beta falls from 20 to 2
                beta = 2 + 18 * (1 - (progress - 0.2) / 0.8)
                loss = loss + self.penalty * quantizer.regularizer(beta)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        quantizer.soft = False
