"""Residual networks of four wide stages, with the stem for CIFAR: ResNet-18/34 and PreAct-ResNet-18."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from methods.architectures.classifier import Classifier, check_image_size, conv3x3, global_average


class BasicBlock(nn.Module):
    """ReLU(conv-BN-ReLU-conv-BN(x) + shortcut(x)) (He et al., arXiv 1512.03385, figure 5).

    (B, C, H, W) -> (B, out_channels, H / stride, W / stride), rounded up. The shortcut must give that shape too.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        h = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """conv-BN-ReLU-conv(a) + shortcut, where a = ReLU(BN(x)) (He et al., arXiv 1603.05027, figure 4e).

    The shortcut is x itself, or a 1x1 convolution of a where stride or width changes.
    dropout: share of the activations before the second convolution that are set to 0 (wide networks; 0: none).
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
        a = relu(self.bn1(x))
        h = self.conv2(self.dropout(relu(self.bn2(self.conv1(a)))))
        return h + (x if self.shortcut is None else self.shortcut(a))


class ResNet(Classifier):
    """Conv3x3-BN-ReLU without a pooling, stages of `BasicBlock`, global average, linear.

    He et al., arXiv 1512.03385, table 1 with the stem and initialisation (torch's own) of kuangliu/pytorch-cifar:
    blocks [2, 2, 2, 2] is ResNet-18 (11,173,962 parameters at 3 channels and 10 classes), [3, 4, 6, 3] ResNet-34
    (21,282,122). The shortcut is a 1x1 convolution and BN where stride or width changes. `stages[i]` is a stage.

    Args:
        blocks: blocks in each stage; a stage halves the image, the first excepted, and doubles the width.
        width: channels of the first stage. The others: as in `Classifier`.
    Raises ValueError where the images are too small for so many halvings.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        normalize: bool = True,
    ) -> None:
        super().__init__(mean, std, normalize)
        check_blocks(blocks)
        check_image_size("ResNet", image_size, len(blocks) - 1)
        self.conv = conv3x3(in_channels, width)
        self.bn = nn.BatchNorm2d(width)
        widths = [width * 2**i for i in range(len(blocks))]
        self.stages = stages(projected, width, widths, blocks)
        self.head = nn.Linear(widths[-1], num_classes)

    def extract(self, x: Tensor) -> Tensor:
        return global_average(self.stages(relu(self.bn(self.conv(x)))))


class PreActResNet(Classifier):
    """Conv3x3, stages of `PreActBlock`, BN-ReLU, global average, linear.

    He et al., arXiv 1603.05027; the defaults are PreAct-ResNet-18 as in locuslab/robust_overfitting, whose last block
    is followed by BN and ReLU: 11,172,170 parameters at 3 channels and 10 classes, torch's own initialisation.
    `final_norm: false` leaves these out, as kuangliu/pytorch-cifar does (11,171,146); with `stem_norm: true` beside it,
    BN and ReLU follow the first convolution instead, as in DivideMix's and FaMUS' code (11,171,274).

    Args and errors: as in `ResNet`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        stem_norm: bool = False,
        final_norm: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__(mean, std, normalize)
        check_blocks(blocks)
        check_image_size("PreActResNet", image_size, len(blocks) - 1)
        widths = [width * 2**i for i in range(len(blocks))]
        self.conv = conv3x3(in_channels, width)
        self.stem_norm = norm_relu(width) if stem_norm else nn.Identity()
        self.stages = stages(PreActBlock, width, widths, blocks)
        self.final_norm = norm_relu(widths[-1]) if final_norm else nn.Identity()
        self.head = nn.Linear(widths[-1], num_classes)

    def extract(self, x: Tensor) -> Tensor:
        return global_average(self.final_norm(self.stages(self.stem_norm(self.conv(x)))))


def projected(in_channels: int, out_channels: int, stride: int) -> BasicBlock:
    """A `BasicBlock` whose shortcut is a 1x1 convolution and BN where the shape changes (He et al., option B)."""
    if stride == 1 and in_channels == out_channels:
        return BasicBlock(in_channels, out_channels, stride, nn.Identity())
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return BasicBlock(in_channels, out_channels, stride, nn.Sequential(conv, nn.BatchNorm2d(out_channels)))


def norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def stages(make_block, in_channels: int, widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    """Stages of `blocks[i]` blocks each; every stage but the first starts at stride 2.

    make_block: (in_channels, out_channels, stride) -> a block.
    """
    made = []
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        entries = [in_channels] + [width] * (count - 1)
        strides = [1 if i == 0 else 2] + [1] * (count - 1)
        made.append(nn.Sequential(*(make_block(c, width, s) for c, s in zip(entries, strides, strict=True))))
        in_channels = width
    return nn.Sequential(*made)


def check_blocks(blocks: Sequence[int]) -> None:
    if not blocks or min(blocks) < 1:
        raise ValueError(f"model.blocks must be a positive number a stage, got {list(blocks)}")
