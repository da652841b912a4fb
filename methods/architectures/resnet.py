"""Residual networks of four wide stages, with the stem for CIFAR: ResNet-18/34 and PreAct-ResNet-18."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

from torch import Tensor, nn
from torch.nn.functional import relu

from datasets.checks import check_count
from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, conv3x3, global_average


class BasicBlock(nn.Module):
    """ReLU(conv-BN-ReLU-conv-BN(x) + shortcut(x)) (He et al., arXiv 1512.03385, figure 5).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution.
        shortcut: module that brings x to the shape of the output.

    Shapes: (B, C, H, W) -> (B, out_channels, H / stride, W / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        h = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """conv-BN-ReLU-conv(a) + shortcut, where a = ReLU(BN(x)) (He et al., arXiv 1603.05027, figure 4e).

    The shortcut is x itself, or a 1x1 convolution of a where stride or width changes.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution.
        dropout: share of the activations before the second convolution that are set to 0 (for wide networks).

    Shapes: (B, C, H, W) -> (B, out_channels, H / stride, W / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        a = relu(self.bn1(x))
        h = self.conv2(self.dropout(relu(self.bn2(self.conv1(a)))))
        return h + (x if self.shortcut is None else self.shortcut(a))


class ResNet(Classifier):
    """Conv3x3-BN-ReLU without a pooling, stages of `BasicBlock`, global average, linear.

    He et al., arXiv 1512.03385, table 1 with the stem and initialisation (torch's own) of kuangliu/pytorch-cifar:
    blocks [2, 2, 2, 2] is ResNet-18 (11,173,962 parameters at 3 channels and 10 classes), [3, 4, 6, 3] ResNet-34
    (21,282,122). The shortcut is a 1x1 convolution and BN where stride or width changes. `stages[i]` is a stage.

    Args:
        blocks: number of blocks of each stage; a stage halves the image, the first excepted, and doubles the width.
        width: channels of the first stage.
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: if a stage has no block, or the images are too small for so many halvings.
    """

    def __init__(
        self, *, blocks: Sequence[int] = (2, 2, 2, 2), width: int = 64, **dims: Unpack[ClassifierArgs]
    ) -> None:
        super().__init__(**dims)
        widths = doubling_widths(self, blocks, width)
        self.conv = conv3x3(self.in_channels, width)
        self.bn = nn.BatchNorm2d(width)
        self.stages = stages(projected, width, widths, blocks)
        self.head = nn.Linear(widths[-1], self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.stages(relu(self.bn(self.conv(x)))))


class PreActResNet(Classifier):
    """Conv3x3, stages of `PreActBlock`, BN-ReLU, global average, linear.

    He et al., arXiv 1603.05027; the defaults are PreAct-ResNet-18 as in locuslab/robust_overfitting, whose last block
    is followed by BN and ReLU: 11,172,170 parameters at 3 channels and 10 classes, torch's own initialisation.
    `final_norm: false` leaves these out, as kuangliu/pytorch-cifar does (11,171,146); with `stem_norm: true` beside it,
    BN and ReLU follow the first convolution instead, as in DivideMix's and FaMUS' code (11,171,274).

    Args:
        blocks: number of blocks of each stage; a stage halves the image, the first excepted, and doubles the width.
        width: channels of the first stage.
        stem_norm: put BN and ReLU after the first convolution.
        final_norm: put BN and ReLU after the last block.
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: if a stage has no block, or the images are too small for so many halvings.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        stem_norm: bool = False,
        final_norm: bool = True,
        **dims: Unpack[ClassifierArgs],
    ) -> None:
        super().__init__(**dims)
        widths = doubling_widths(self, blocks, width)
        self.conv = conv3x3(self.in_channels, width)
        self.stem_norm = norm_relu(width) if stem_norm else nn.Identity()
        self.stages = stages(PreActBlock, width, widths, blocks)
        self.final_norm = norm_relu(widths[-1]) if final_norm else nn.Identity()
        self.head = nn.Linear(widths[-1], self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.final_norm(self.stages(self.stem_norm(self.conv(x)))))


def projected(in_channels: int, out_channels: int, stride: int) -> BasicBlock:
    """Return a `BasicBlock` whose shortcut is a 1x1 convolution and BN where the shape changes (option B)."""
    if stride == 1 and in_channels == out_channels:
        return BasicBlock(in_channels, out_channels, stride, nn.Identity())
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return BasicBlock(in_channels, out_channels, stride, nn.Sequential(conv, nn.BatchNorm2d(out_channels)))


def norm_relu(channels: int) -> nn.Sequential:
    """Return batch normalisation followed by ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def stages(
    make_block: Callable[[int, int, int], nn.Module], in_channels: int, widths: Sequence[int], blocks: Sequence[int]
) -> nn.Sequential:
    """Return the stages of a residual network; every stage but the first starts at stride 2.

    Args:
        make_block: builds a block from its input channels, output channels and stride.
        in_channels: channels of the first stage's input.
        widths: output channels of each stage.
        blocks: number of blocks of each stage.
    """
    sequence = []
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        entries = [in_channels] + [width] * (count - 1)
        strides = [1 if i == 0 else 2] + [1] * (count - 1)
        sequence.append(nn.Sequential(*(make_block(c, width, s) for c, s in zip(entries, strides, strict=True))))
        in_channels = width
    return nn.Sequential(*sequence)


def doubling_widths(network: Classifier, blocks: Sequence[int], width: int) -> list[int]:
    """Return the width of each stage, each twice the one before, after checking blocks and image size.

    Args:
        network: network that the stages are for.
        blocks: number of blocks of each stage.
        width: channels of the first stage.

    Raises:
        ValueError: if a stage has no block or no channels, or the images are too small for so many halvings.
    """
    check_count("model", width=width)
    check_blocks(blocks)
    check_image_size(type(network).__name__, network.image_size, len(blocks) - 1)
    return [width * 2**i for i in range(len(blocks))]


def check_blocks(blocks: Sequence[int]) -> None:
    """Raise ValueError if there is no stage, or one without a block."""
    if not blocks or min(blocks) < 1:
        raise ValueError(f"model.blocks must be a positive number a stage, got {list(blocks)}")
