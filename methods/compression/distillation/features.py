"""Read feature maps inside of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.compression.layers import output_shapes, weight_layers

POOLED = "pooled"  # input of the last layer


def last_maps(network: nn.Module, x: Tensor) -> list[str]:
    """Return the modules that compute the last feature map of each resolution, from the largest to the smallest.

    Args:
        network: network of images.
        x: one image (1, C, H, W).
    """
    last: dict[int, str] = {}
    for name, shape in output_shapes(network, x).items():
        if len(shape) == 4 and shape[-1] > 1:
            last[shape[-1]] = name
    return [last[size] for size in sorted(last, reverse=True)]


class FeatureTap:
    """Keep the outputs of some modules, and the input of the last layer, of the latest forward pass.

    Args:
        network: network.
        names: names of the modules.

    Attributes:
        maps: outputs by name; `POOLED` is the input (B, D) of the last layer.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self.maps: dict[str, Tensor] = {}
        self.names = list(names)
        head = getattr(network, "head", None) or network.get_submodule(list(weight_layers(network))[-1])
        self.handles = [network.get_submodule(name).register_forward_hook(self._keep(name)) for name in names]
        self.handles.append(head.register_forward_pre_hook(self._keep_input))

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            self.maps[name] = output

        return hook

    def _keep_input(self, module: nn.Module, inputs: tuple) -> None:
        self.maps[POOLED] = inputs[0]

    def ordered(self) -> list[Tensor]:
        """Return the maps in the order of their names."""
        return [self.maps[name] for name in self.names]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def features_of(network: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """Return the maps of a forward pass in eval mode, by name."""
    tap = FeatureTap(network, names)
    try:
        network.eval()(x)
    finally:
        tap.remove()
    return tap.maps
