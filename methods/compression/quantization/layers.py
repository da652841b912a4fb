"""Layers with quantized weights and inputs: simulated in floating point for training, and as stored integer codes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.compression.layers import HEAD, STEM, WEIGHT_LAYERS, replace_layer, selected_layers, weight_layers


class AffineCodes(NamedTuple):
    """Integer codes of a tensor: value = scale * code + offset.

    Shapes:
        codes: shape of the tensor, whole numbers from 0.
        scale: broadcasts against the codes: one number, or one a channel (C, 1, ...).
        offset: likewise.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor

    def values(self) -> Tensor:
        """Return the values."""
        return self.scale * self.codes + self.offset


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """Return `quantized`, with the gradient of x."""
    return x + (quantized - x).detach()


def per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """Return one number a channel (C,) in the shape that broadcasts against a weight (C, ...)."""
    return values.reshape(-1, *([1] * (weight.dim() - 1)))


class Quantizer(nn.Module):
    """Base class of quantizers. `forward` returns simulated quantized values with the method's gradient.

    Args:
        bits: bits of a code.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise ValueError(f"bits must be in 1..16, got {bits}")
        self.bits = bits

    def codes(self, x: Tensor) -> AffineCodes:
        """Return the integer codes of a tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not define codes")


class FullPrecision(nn.Module):
    """Quantizer that changes nothing."""

    bits = 32

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


class QuantConv2d(nn.Conv2d):
    """Convolution of quantized inputs and quantized weights, simulated in floating point."""

    weight_quantizer: Any
    input_quantizer: Any

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        return self._conv_forward(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)

    def coded(self) -> nn.Module:
        """Return the layer with stored codes."""
        return CodedConv2d(self)


class QuantLinear(nn.Linear):
    """Linear layer of quantized inputs and quantized weights, simulated in floating point."""

    weight_quantizer: Any
    input_quantizer: Any

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return nn.functional.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)

    def coded(self) -> nn.Module:
        """Return the layer with stored codes."""
        return CodedLinear(self)


class CodedConv2d(nn.Module):
    """Convolution whose weight is stored as integer codes; it is computed from them in every forward pass."""

    input_quantizer: Any
    bias: Any

    def __init__(self, layer: QuantConv2d) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = (
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
        store_codes(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        x = self.input_quantizer(x)
        args: Any = (self.stride, self.padding, self.dilation, self.groups)
        return nn.functional.conv2d(x, coded_weight(self), self.bias, *args)


class CodedLinear(nn.Module):
    """Linear layer whose weight is stored as integer codes."""

    input_quantizer: Any
    bias: Any

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        store_codes(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return nn.functional.linear(self.input_quantizer(x), coded_weight(self), self.bias)


def store_codes(module: Any, layer: QuantConv2d | QuantLinear) -> None:
    """Store the codes of a layer's weight, its bias and its input quantizer in a module."""
    with torch.no_grad():
        codes = layer.weight_quantizer.codes(layer.weight)
    bits = layer.weight_quantizer.bits
    module.code_bits = {"weight_codes": bits}
    module.input_bits = getattr(layer.input_quantizer, "bits", 32)
    module.register_buffer("weight_codes", codes.codes.to(torch.uint8 if bits <= 8 else torch.int32))
    module.register_buffer("weight_scale", codes.scale.detach().clone().float())
    module.register_buffer("weight_offset", codes.offset.detach().clone().float())
    module.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
    module.input_quantizer = copy.deepcopy(layer.input_quantizer)


def coded_weight(module: Any) -> Tensor:
    """Return the weight of a coded layer."""
    return module.weight_scale * module.weight_codes + module.weight_offset


Make = Callable[[nn.Module], nn.Module]


def quantize_layers(
    network: nn.Module, make_weight: Make, make_input: Make | None = None, ignore: Sequence[str] = (STEM, HEAD)
) -> nn.Module:
    """Replace the weight layers of a network by quantized ones, in place, and return the network.

    Args:
        network: network of convolutions and linear layers.
        make_weight: returns the weight quantizer of a layer.
        make_input: returns the input quantizer of a layer; None: inputs stay as they are.
        ignore: layers that stay in full precision, as in `selected_layers`.
    """
    for name, layer in selected_layers(network, ignore).items():
        replace_layer(network, name, quantized_layer(layer, make_weight(layer), make_input and make_input(layer)))
    return network


def quantized_layer(layer: nn.Module, weight_quantizer: nn.Module, input_quantizer: nn.Module | None) -> nn.Module:
    """Return a layer with the same weights and with quantizers."""
    new = copy.copy(layer)
    new.__class__ = QuantConv2d if isinstance(layer, nn.Conv2d) else QuantLinear
    new._modules = {}
    new.weight_quantizer = weight_quantizer
    new.input_quantizer = input_quantizer or FullPrecision()
    return new


def deploy(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose quantized layers hold integer codes in place of weights."""
    network = copy.deepcopy(network).eval()
    for name, layer in list(weight_layers(network).items()):
        if isinstance(layer, QuantConv2d | QuantLinear) and isinstance(layer.weight_quantizer, Quantizer):
            replace_layer(network, name, layer.coded())
    return network


def plain(network: nn.Module) -> nn.Module:
    """Return a copy of a network with ordinary layers that hold the quantized weights as floating-point numbers."""
    network = deploy(network)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, CodedConv2d | CodedLinear):
            replace_layer(network, name, _plain_layer(layer))
    return network


@torch.no_grad()
def _plain_layer(layer: Any) -> nn.Module:
    weight, bias = coded_weight(layer), layer.bias is not None
    if isinstance(layer, CodedLinear):
        new: Any = nn.Linear(weight.shape[1], len(weight), bias)
    else:
        args = layer.stride, layer.padding, layer.dilation, layer.groups
        new = nn.Conv2d(weight.shape[1] * layer.groups, len(weight), weight.shape[2:], *args, bias)  # type: ignore[arg-type]
    new.weight, new.bias = nn.Parameter(weight), layer.bias
    return new.eval()


def is_quantized(network: nn.Module) -> bool:
    """Return whether a network has quantized layers."""
    kinds = (QuantConv2d, QuantLinear, CodedConv2d, CodedLinear)
    return any(isinstance(module, kinds) for module in network.modules())


def layer_bits(layer: Any) -> tuple[int, int]:
    """Return the bits of the weights and of the inputs of a layer; 32 where they are not quantized."""
    if isinstance(layer, QuantConv2d | QuantLinear):
        return layer.weight_quantizer.bits, int(getattr(layer.input_quantizer, "bits", 32))
    if isinstance(layer, CodedConv2d | CodedLinear):
        code_bits: Any = layer.code_bits
        input_bits: Any = layer.input_bits
        return code_bits["weight_codes"], input_bits
    return 32, 32


__all__ = ["WEIGHT_LAYERS", "AffineCodes", "Quantizer", "deploy", "layer_bits", "quantize_layers"]
