"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382): residual blocks that are dropped in training."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from datasets.checks import check_fraction
from methods.architectures.cifar_resnet import CifarResNet, ZeroPadded
from methods.architectures.classifier import ClassifierArgs
from methods.architectures.resnet import BasicBlock


def survival_probability(block: int, blocks: int, p_last: float) -> float:
    """Return p_l = 1 - l/L (1 - p_L), the linear decay of the paper, for block l in 1..L."""
    return 1 - block / blocks * (1 - p_last)


class StochasticBlock(BasicBlock):
    """Residual block that survives a batch of training with probability p; in a test its branch is scaled by p.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution.
        shortcut: module that brings x to the shape of the output.
        p: probability of survival.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module, p: float = 1.0) -> None:
        super().__init__(in_channels, out_channels, stride, shortcut)
        self.p = p

    def branch(self, x: Tensor) -> Tensor:
        """Return the residual branch."""
        return self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output. A dropped branch is not computed."""
        if self.training:
            survives = self.p >= 1 or float(torch.rand(())) < self.p  # one draw for the batch
            return relu(self.shortcut(x) + self.branch(x)) if survives else relu(self.shortcut(x))
        return relu(self.shortcut(x) + self.p * self.branch(x))


class StochasticDepthResNet(CifarResNet):
    """CIFAR ResNet whose blocks are dropped in training, later ones more often.

    Shortcuts that change the size average 2x2 pixels and pad channels with zeros, as in the published code.

    Args:
        depth: number of layers, 6n + 2.
        width: channels of the first stage.
        p_last: probability that the last block survives.
        **dims: arguments of `Classifier`.
    """

    def __init__(
        self, *, depth: int = 110, width: int = 16, p_last: float = 0.5, **dims: Unpack[ClassifierArgs]
    ) -> None:
        super().__init__(depth=depth, width=width, **dims)
        check_fraction("model", p_last=p_last)
        blocks = [(stage, i) for stage in self.stages for i in range(len(stage))]  # type: ignore[arg-type]
        for number, (stage, i) in enumerate(blocks, 1):
            old = stage[i]  # type: ignore[index]
            conv: nn.Conv2d = old.conv1
            shortcut: nn.Module = nn.Identity()
            if isinstance(old.shortcut, ZeroPadded):
                shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), ZeroPadded(old.shortcut.extra, 1))
            p = survival_probability(number, len(blocks), p_last)
            stage[i] = StochasticBlock(conv.in_channels, conv.out_channels, conv.stride[0], shortcut, p)  # type: ignore[operator]
        self.init_weights()
