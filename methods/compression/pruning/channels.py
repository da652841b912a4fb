"""Channels that can be removed without touching others: where they are produced and consumed, and their surgery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.architectures.mobilenet import InvertedResidual
from methods.architectures.resnet import BasicBlock, PreActBlock

# Layers that keep the channels apart and in their order.
CHANNELWISE = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Identity)


@dataclass
class Unit:
    """Group of channels that only one layer produces.

    Args:
        name: name of the producing layer.
        producer: layer whose outputs are the channels.
        consumer: layer whose inputs they are.
        norms: batch normalisations on the way.
        depthwise: depthwise convolutions on the way.
        spatial: inputs of the consumer for each channel (more than 1 after a flattening).
    """

    name: str
    producer: Any
    consumer: Any
    norms: list[Any] = field(default_factory=list)
    depthwise: list[Any] = field(default_factory=list)
    spatial: int = 1

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.producer.weight)


def find_units(network: nn.Module) -> list[Unit]:
    """Return the groups of channels of a network, in the order they run.

    Found are the inner channels of residual blocks (`BasicBlock`, `PreActBlock`, `InvertedResidual`) and those between
    the layers of plain sequences (VGG, LeNet, ConvNet, MobileNetV1). The channels of residual streams belong to several
    layers; `prune_depgraph` prunes them.

    Raises:
        ValueError: the network has none.
    """
    units = [unit for name, module in network.named_modules() for unit in _block_units(name, module)]
    if not units and isinstance(getattr(network, "layers", None), nn.Sequential):
        units = _chain_units(network)
    if not units:
        kinds = "residual blocks or plain sequences of layers"
        raise ValueError(f"{type(network).__name__} has no channels to prune here: it is not made of {kinds}")
    return units


def _block_units(name: str, block: nn.Module) -> Iterator[Unit]:
    if isinstance(block, BasicBlock):
        yield Unit(f"{name}.conv1", block.conv1, block.conv2, [block.bn1])
    elif isinstance(block, PreActBlock):
        yield Unit(f"{name}.conv1", block.conv1, block.conv2, [block.bn2])
    elif isinstance(block, InvertedResidual):
        yield Unit(f"{name}.conv1", block.conv1, block.conv3, [block.bn1, block.bn2], [block.conv2])


def _chain_units(network: nn.Module) -> list[Unit]:
    """Return the units of a network of `layers` and `head`, or none if a layer may mix channels in a way of its own."""
    parts = dict(network.named_children())
    if not parts.keys() <= {"layers", "head"}:
        return []
    units: list[Unit] = []
    producer: tuple[str, Any] | None = None
    norms: list[nn.Module] = []
    depthwise: list[nn.Module] = []
    layers = {f"layers.{name}": layer for name, layer in parts["layers"].named_children()}
    for name, module in (layers | {name: m for name, m in parts.items() if name == "head"}).items():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            norms.append(module)
        elif isinstance(module, nn.Conv2d) and producer and module.groups == module.in_channels == module.out_channels:
            depthwise.append(module)
        elif isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            if producer is not None:
                width = len(producer[1].weight)
                units.append(Unit(*producer, module, norms, depthwise, module.weight.shape[1] // width))
            producer, norms, depthwise = (name, module), [], []
        elif not isinstance(module, CHANNELWISE):
            return []
    return units


@torch.no_grad()
def keep_channels(unit: Unit, kept: Tensor) -> None:
    """Remove all channels of a unit but some: smaller layers with the same weights.

    Args:
        unit: unit, whose layers are changed in place.
        kept: (K,) int64, rising numbers of the channels that stay.
    """
    _take(unit.producer, "weight", kept, 0)
    if unit.producer.bias is not None:
        _take(unit.producer, "bias", kept, 0)
    _set_width(unit.producer, "out", len(kept))
    for norm in unit.norms:
        for name in ("weight", "bias", "running_mean", "running_var"):
            _take(norm, name, kept, 0)
        norm.num_features = len(kept)
    for conv in unit.depthwise:
        _take(conv, "weight", kept, 0)
        if conv.bias is not None:
            _take(conv, "bias", kept, 0)
        conv.in_channels = conv.out_channels = conv.groups = len(kept)
    inputs = (kept[:, None] * unit.spatial + torch.arange(unit.spatial, device=kept.device)).flatten()
    _take(unit.consumer, "weight", inputs, 1)
    _set_width(unit.consumer, "in", len(inputs))


@torch.no_grad()
def mask_channels(unit: Unit, kept: Tensor) -> None:
    """Set all channels of a unit but some to zero, without removing them.

    Scale and shift of batch normalisation are set to zero too, or a pruned channel would still be a constant.
    """
    mask = torch.zeros(unit.width, dtype=torch.bool, device=kept.device)
    mask[kept] = True
    parts = [unit.producer, *unit.depthwise] if not unit.norms else unit.norms
    for part in parts:
        part.weight[~mask] = 0
        if part.bias is not None:
            part.bias[~mask] = 0


def _take(module: nn.Module, name: str, index: Tensor, dim: int) -> None:
    old = getattr(module, name)
    new = old.detach().index_select(dim, index.to(old.device)).clone()
    setattr(module, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)


def _set_width(layer: nn.Module, side: str, width: int) -> None:
    setattr(layer, f"{side}_channels" if isinstance(layer, nn.Conv2d) else f"{side}_features", width)


def strongest(scores: Tensor, count: int) -> Tensor:
    """Return the rising numbers of the `count` largest scores."""
    return scores.topk(count).indices.sort().values


def kept_count(width: int, ratio: float, min_channels: int = 1, round_to: int | None = None) -> int:
    """Return int(width x (1 - ratio)), at least `min_channels`, rounded up to a multiple of `round_to`.

    Raises:
        ValueError: the ratio would empty the layer.
    """
    count = int(round(width * (1 - ratio), 9))
    if count < 1:
        raise ValueError(f"a ratio of {ratio} would empty a layer of {width} channels")
    count = max(count, min(min_channels, width))
    if round_to:
        count = min(-(-count // round_to) * round_to, width)
    return count
