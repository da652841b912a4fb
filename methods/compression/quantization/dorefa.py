"""DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160): k-bit weights, activations and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_not_negative
from methods.compression.layers import HEAD, STEM, selected_layers
from methods.compression.quantization.layers import (
    AffineCodes,
    FullPrecision,
    Quantizer,
    quantize_layers,
    straight_through,
)
from methods.compression.stage import QUANTIZED, Context, Stage
from methods.compression.training import Recipe


def quantize_unit(x: Tensor, bits: int) -> Tensor:
    """Return round((2^k - 1) x) / (2^k - 1) for x in [0, 1], with the gradient of x (equation 5)."""
    levels = 2**bits - 1
    return straight_through(x, torch.round(x * levels) / levels)


class DoReFaWeight(Quantizer):
    """Weights 2 quantize_k(tanh(w) / (2 max|tanh w|) + 1/2) - 1; with 1 bit, sign(w) x mean|w| of the layer.

    The maximum is taken as a constant in the gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return quantized weights."""
        if self.bits == 1:
            return straight_through(x, torch.where(x >= 0, 1.0, -1.0) * x.detach().abs().mean())
        return 2 * quantize_unit(self._to_unit(x), self.bits) - 1

    def _to_unit(self, x: Tensor) -> Tensor:
        squashed = torch.tanh(x)
        return squashed / (2 * squashed.detach().abs().max()) + 0.5

    def codes(self, x: Tensor) -> AffineCodes:
        """Return integer codes."""
        if self.bits == 1:
            scale = x.abs().mean()
            return AffineCodes((x >= 0).to(torch.int32), 2 * scale, -scale)
        levels = 2**self.bits - 1
        codes = torch.round(self._to_unit(x) * levels).to(torch.int32)
        return AffineCodes(codes, x.new_tensor(2 / levels), x.new_tensor(-1.0))


class DoReFaInput(Quantizer):
    """Inputs quantize_k(clip(x, 0, 1))."""

    def forward(self, x: Tensor) -> Tensor:
        """Return quantized inputs."""
        return quantize_unit(x.clamp(0, 1), self.bits)


class QuantizeGradient(torch.autograd.Function):
    """Identity whose gradient is quantized to k bits with noise, by the largest gradient of each sample (eq. 12)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        """Return x."""
        ctx.bits = bits
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the quantized gradient."""
        levels = 2**ctx.bits - 1
        largest = gradient.abs().flatten(1).amax(1).clamp(min=1e-30).view(-1, *([1] * (gradient.dim() - 1)))
        noise = (torch.rand_like(gradient) - 0.5) / levels
        unit = (gradient / (2 * largest) + 0.5 + noise).clamp(0, 1)
        return 2 * largest * (torch.round(unit * levels) / levels - 0.5), None


def quantize_gradients(network: nn.Module, names: Sequence[str], bits: int) -> list[Any]:
    """Quantize the gradients of the outputs of some layers; return the handles of the hooks."""

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return QuantizeGradient.apply(output, bits)

    return [network.get_submodule(name).register_forward_hook(hook) for name in names]


class DoReFa(Stage):
    """Train with weights and activations of k bits; first and last layer stay in full precision.

    Args:
        w_bits: bits of weights.
        a_bits: bits of inputs; 32: not quantized.
        g_bits: bits of gradients in training; 32: not quantized.
        fresh: start from new weights instead of the dense network's.
        ignore: layers that stay in full precision, see `selected_layers`.
        recipe: training.
        bn_recal_batches: batches that measure batch normalisation anew at the end.
    """

    result = QUANTIZED
    keeps_zeros = False

    def __init__(
        self,
        w_bits: int = 4,
        a_bits: int = 4,
        g_bits: int = 32,
        fresh: bool = True,
        ignore: Sequence[str] = (STEM, HEAD),
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        for name, bits, allowed in (("w_bits", w_bits, 8), ("a_bits", a_bits, 8), ("g_bits", g_bits, 8)):
            if bits != 32 and not 1 <= bits <= allowed:
                raise ValueError(f"{name} must be in 1..{allowed}, or 32 for full precision, got {bits}")
        if w_bits == 32:
            raise ValueError("w_bits=32 quantizes no weight; choose 1..8")
        self.w_bits, self.a_bits, self.g_bits = w_bits, a_bits, g_bits
        self.fresh = self.first_only = fresh
        self.ignore, self.recipe = tuple(ignore), recipe or Recipe(200, 0.1, schedule="step")
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.bn_recal_batches = bn_recal_batches

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the names of the layers."""
        selected_layers(network, self.ignore)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Quantize and train."""
        network = context.fresh() if self.fresh else network
        names = list(selected_layers(network, self.ignore))
        make_input = (lambda layer: FullPrecision()) if self.a_bits == 32 else (lambda layer: DoReFaInput(self.a_bits))
        quantize_layers(network, lambda layer: DoReFaWeight(self.w_bits), make_input, self.ignore)
        handles = [] if self.g_bits == 32 else quantize_gradients(network, names, self.g_bits)
        if self.recipe.epochs:
            context.train(network, self.recipe, keep_zeros=False)
        for handle in handles:
            handle.remove()
        context.recalibrate(network, self.bn_recal_batches)
        return network
