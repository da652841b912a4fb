"""Multiply-accumulates of a network, in total and layer by layer, by torch's counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods.attacks import mode_of
from methods.compression.layers import OwnLayer, layer_of
from methods.compression.quantization.layers import (
    CodedConv2d,
    CodedLinear,
    QuantConv2d,
    QuantLinear,
    coded_weight,
    layer_bits,
)

COUNTED = (nn.Conv2d, nn.Linear, CodedConv2d, CodedLinear, OwnLayer)


@torch.no_grad()
def count_macs(network: nn.Module, x: Tensor) -> int:
    """Return the multiply-accumulates of a forward pass: convolutions, linear layers and products of matrices.

    torch's counter calls a multiply-accumulate two operations; batch normalisation, biases and activations are not
    counted. A module that computes by other means, such as FFT, states its own number in `extra_macs`.

    Args:
        network: network; it runs in eval mode.
        x: input, usually one image (1, C, H, W).
    """
    counter = FlopCounterMode(display=False)
    with mode_of(network, training=False), counter:
        network(x)
    extra = sum(int(getattr(module, "extra_macs", 0)) for module in network.modules())
    return counter.get_total_flops() // 2 + extra * len(x)


@torch.no_grad()
def layer_macs(network: nn.Module, x: Tensor) -> dict[str, int]:
    """Return the multiply-accumulates of each convolution and linear layer by name, in the order they run.

    Args:
        network: network; it runs in eval mode.
        x: input (B, C, H, W).
    """
    counts: dict[str, int] = {}
    stack: list[FlopCounterMode] = []

    def before(module: nn.Module, inputs: tuple) -> None:
        stack.append(FlopCounterMode(display=False))
        stack[-1].__enter__()

    def after(name: str) -> Callable[..., None]:
        def count(module: nn.Module, inputs: tuple, output: object) -> None:
            counter = stack.pop()
            counter.__exit__(None, None, None)
            extra = int(getattr(module, "extra_macs", 0)) * len(x)
            counts[name] = counts.get(name, 0) + counter.get_total_flops() // 2 + extra

        return count

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, COUNTED):
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after(name))]
    try:
        with mode_of(network, training=False):
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return counts


@torch.no_grad()
def layer_weight(layer: Any) -> Tensor:
    """Return the weight that a layer computes with."""
    if isinstance(layer, CodedConv2d | CodedLinear):
        return coded_weight(layer)
    if isinstance(layer, QuantConv2d | QuantLinear):
        return layer.weight_quantizer(layer.weight)
    return layer.counted_weight() if isinstance(layer, OwnLayer) else layer.weight


def effective_macs(network: nn.Module, counts: dict[str, int]) -> int:
    """Return multiply-accumulates with weights that are not zero: theoretical, no kernel here skips zeros.

    Args:
        network: network.
        counts: multiply-accumulates of each layer, of `layer_macs`.
    """
    total = 0.0
    for name, count in counts.items():
        weight = layer_weight(layer_of(network, name))
        total += count * float((weight != 0).float().mean())
    return round(total)


def bit_operations(network: nn.Module, counts: dict[str, int]) -> int:
    """Return the sum over layers of multiply-accumulates x bits of a weight x bits of an input."""
    total = 0
    for name, count in counts.items():
        weight_bits, input_bits = layer_bits(layer_of(network, name))
        total += count * weight_bits * input_bits
    return total
