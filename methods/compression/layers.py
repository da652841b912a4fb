"""Find and replace layers of a network by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from methods.attacks import mode_of

WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)


class OwnLayer(nn.Module):
    """Base class of layers whose operations are counted as those of a convolution or of a linear layer are."""

    def counted_weight(self) -> Tensor:
        """Return the weights, of which the share that is not zero counts."""
        return self.get_parameter("weight")


STEM, HEAD = "stem", "head"  # words for the first and the last layer in a list of layers to leave out


def weight_layers(network: nn.Module) -> dict[str, Any]:
    """Return the convolutions and linear layers of a network by name, in the order of their definition."""
    return {name: module for name, module in network.named_modules() if isinstance(module, WEIGHT_LAYERS)}


def selected_layers(
    network: nn.Module, ignore: Sequence[str] = (), kinds: tuple[type[nn.Module], ...] = WEIGHT_LAYERS
) -> dict[str, Any]:
    """Return the weight layers that a transformation works on.

    Args:
        network: network.
        ignore: layers to leave out: "stem" (the first), "head" (the last), or patterns of names such as "stages.0.*".
        kinds: classes of layers.

    Raises:
        ValueError: a pattern matches no layer, or no layer is left.
    """
    layers = weight_layers(network)
    names = list(layers)
    patterns = {STEM: names[:1], HEAD: names[-1:]}
    left_out: set[str] = set()
    for pattern in ignore:
        matched = patterns.get(pattern) or [name for name in names if fnmatch(name, pattern)]
        if not matched:
            raise ValueError(f"ignore: {pattern!r} matches no layer; layers: {', '.join(names)}")
        left_out.update(matched)
    chosen = {name: layer for name, layer in layers.items() if name not in left_out and isinstance(layer, kinds)}
    if not chosen:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"no {wanted} layer is left to work on; the network has {', '.join(names)}")
    return chosen


def layer_of(network: nn.Module, name: str) -> Any:
    """Return the module of a name."""
    return network.get_submodule(name)


def replace_layer(network: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of another one.

    Args:
        network: network, changed in place.
        name: name of the module, such as "stages.0.1.conv1".
        new: module that takes its place.
    """
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)


@torch.no_grad()
def output_shapes(
    network: nn.Module, x: Tensor, kinds: tuple[type[nn.Module], ...] = (nn.Module,)
) -> dict[str, torch.Size]:
    """Return the shape of the output of each module of some classes, in the order they run.

    Args:
        network: network; it runs in eval mode.
        x: input (B, C, H, W).
        kinds: classes of the modules.
    """
    shapes: dict[str, torch.Size] = {}

    def hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor):
                shapes[name] = output.shape

        return record

    handles = [m.register_forward_hook(hook(n)) for n, m in network.named_modules() if n and isinstance(m, kinds)]
    try:
        with mode_of(network, training=False):
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer; the CPU if it has none."""
    tensor = next((t for part in (network.parameters(), network.buffers()) for t in part), None)
    return torch.device("cpu") if tensor is None else tensor.device
