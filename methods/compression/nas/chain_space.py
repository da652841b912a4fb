"""A chain of blocks, each with a choice of kernel, expansion, or no block: the space of the searches by latency."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, global_average
from methods.compression.compact.mobilenet import conv_norm_relu

SKIP = "skip"


class BlockPlace(NamedTuple):
    """Place of a block.

    Args:
        channels: channels of the input.
        width: channels of the output.
        stride: stride.
        size: side of the input.
    """

    channels: int
    width: int
    stride: int
    size: int

    @property
    def can_skip(self) -> bool:
        """True if the block may be left out: only where input and output have the same shape."""
        return self.stride == 1 and self.channels == self.width


class MBConv(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1, each with BN; the input is added where shapes agree.

    Args:
        channels: channels of the input.
        width: channels of the output.
        kernel: side of the depthwise kernel.
        expand: factor of the channels between.
        stride: stride.
    """

    def __init__(self, channels: int, width: int, kernel: int, expand: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expand
        self.layers = nn.Sequential(
            *conv_norm_relu(channels, hidden, 1),
            *conv_norm_relu(hidden, hidden, kernel, stride, hidden),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        return x + self.layers(x) if self.residual else self.layers(x)


class ChainSpace:
    """Space of chains: stages of blocks, the first block of each stage but the first at stride 2.

    Args:
        widths: channels of each stage.
        blocks: number of blocks of each stage.
        kernels: sides of kernels to choose from.
        expands: expansions to choose from.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 4,
        kernels: Sequence[int] = (3, 5, 7),
        expands: Sequence[int] = (3, 6),
    ) -> None:
        if not widths or blocks < 1 or not kernels or not expands:
            raise ValueError("the space needs widths, blocks, kernels and expands")
        if any(k % 2 == 0 for k in kernels):
            raise ValueError(f"kernels must be odd, got {list(kernels)}")
        self.widths, self.blocks = list(widths), blocks
        self.kernels, self.expands = list(kernels), list(expands)
        self.operations = [f"k{k}e{e}" for k in kernels for e in expands]

    def places(self, image_size: int) -> list[BlockPlace]:
        """Return the places of all blocks for images of a size."""
        places, channels, size = [], self.widths[0], image_size
        for stage, width in enumerate(self.widths):
            for i in range(self.blocks):
                stride = 2 if stage and i == 0 else 1
                places.append(BlockPlace(channels, width, stride, size))
                channels, size = width, -(-size // stride)
        return places

    def choices(self, place: BlockPlace) -> list[str]:
        """Return the operations that a place can have."""
        return [*self.operations, SKIP] if place.can_skip else list(self.operations)

    def random(self, rng: Random, image_size: int) -> tuple[str, ...]:
        """Return a random architecture: an operation for each place."""
        return tuple(rng.choice(self.choices(place)) for place in self.places(image_size))

    def mutate(self, architecture: Sequence[str], rng: Random, image_size: int) -> tuple[str, ...]:
        """Return an architecture with another operation at one place."""
        places = self.places(image_size)
        index = rng.randrange(len(places))
        others = [op for op in self.choices(places[index]) if op != architecture[index]]
        return (*architecture[:index], rng.choice(others), *architecture[index + 1 :])


def make_block(operation: str, place: BlockPlace) -> nn.Module:
    """Return the block of an operation such as "k5e3" or "skip"."""
    if operation == SKIP:
        return nn.Identity()
    kernel, _, expand = operation[1:].partition("e")
    return MBConv(place.channels, place.width, int(kernel), int(expand), place.stride)


class ChainNetwork(Classifier):
    """Conv3x3, the blocks of an architecture, global average, linear.

    Args:
        space: space of the architecture.
        architecture: operation of each place.
        **dims: arguments of `Classifier`.
    """

    def __init__(self, space: ChainSpace, architecture: Sequence[str], **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        check_image_size("ChainNetwork", self.image_size, len(space.widths) - 1)
        self.architecture = list(architecture)
        self.stem = nn.Sequential(*conv_norm_relu(self.in_channels, space.widths[0], 3))
        places = space.places(self.image_size)
        self.blocks = nn.Sequential(*(make_block(o, p) for o, p in zip(architecture, places, strict=True)))
        self.head = nn.Linear(space.widths[-1], self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.blocks(self.stem(x)))


def seeded_network(space: ChainSpace, architecture: Sequence[str], seed: int, dims: dict[str, Any]) -> ChainNetwork:
    """Return the network of an architecture with weights that follow from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ChainNetwork(space, architecture, **dims)
