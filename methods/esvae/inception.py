"""Inception-v3 as the FID uses it: the TensorFlow network of 2015-12-05, ported to PyTorch. Weights are given by path.

Names of the layers are those of the published files `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid, clean-fid)
and `weights-inception-2015-12-05-6726825d.pth` (torch-fidelity). Three differences to the network of the paper keep
the numbers of TensorFlow: average pooling leaves the padding out, and the last block pools by maximum in one branch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

SIDE = 299
CLASSES = 1008
FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch normalisation with eps 0.001, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations."""
        return self.bn(self.conv(x)).relu()


class BlockA(nn.Module):
    """35 x 35 block."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNormReLU(in_channels, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = ConvNormReLU(in_channels, 48, 1), ConvNormReLU(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNormReLU(in_channels, 64, 1)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = (ConvNormReLU(c, 96, 3, padding=1) for c in (64, 96))
        self.branch_pool = ConvNormReLU(in_channels, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, pooled], 1)


class BlockB(nn.Module):
    """Reduction from 35 x 35 to 17 x 17."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNormReLU(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNormReLU(in_channels, 64, 1)
        self.branch3x3dbl_2 = ConvNormReLU(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormReLU(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17 x 17 block with factorised 7 x 7 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
        self.branch1x1 = ConvNormReLU(768, 192, 1)
        self.branch7x7_1 = ConvNormReLU(768, width, 1)
        self.branch7x7_2 = ConvNormReLU(width, width, row[0], padding=row[1])
        self.branch7x7_3 = ConvNormReLU(width, 192, column[0], padding=column[1])
        self.branch7x7dbl_1 = ConvNormReLU(768, width, 1)
        self.branch7x7dbl_2 = ConvNormReLU(width, width, column[0], padding=column[1])
        self.branch7x7dbl_3 = ConvNormReLU(width, width, row[0], padding=row[1])
        self.branch7x7dbl_4 = ConvNormReLU(width, width, column[0], padding=column[1])
        self.branch7x7dbl_5 = ConvNormReLU(width, 192, row[0], padding=row[1])
        self.branch_pool = ConvNormReLU(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pooled = self.branch_pool(avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        return torch.cat([self.branch1x1(x), single, double, pooled], 1)


class BlockD(nn.Module):
    """Reduction from 17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = ConvNormReLU(768, 192, 1), ConvNormReLU(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNormReLU(768, 192, 1)
        self.branch7x7x3_2 = ConvNormReLU(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNormReLU(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNormReLU(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches."""
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8 x 8 block with split 3 x 3 convolutions."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNormReLU(in_channels, 320, 1)
        self.branch3x3_1 = ConvNormReLU(in_channels, 384, 1)
        self.branch3x3_2a = ConvNormReLU(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNormReLU(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvNormReLU(in_channels, 448, 1)
        self.branch3x3dbl_2 = ConvNormReLU(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNormReLU(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvNormReLU(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvNormReLU(in_channels, 192, 1)

    def pool(self, x: Tensor) -> Tensor:
        """Return the pooled input."""
        return avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pool(x))]
        return torch.cat(branches, 1)


class LastBlockE(BlockE):
    """The same, pooled by maximum."""

    def pool(self, x: Tensor) -> Tensor:
        """Return the pooled input."""
        return max_pool2d(x, 3, 1, 1)


class InceptionV3(nn.Module):
    """Images (N, 3, 299, 299) in [-1, 1] -> features (N, 2048); `head` gives logits (N, 1008), without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(BlockC, (128, 160, 160, 192))
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = BlockD(), BlockE(1280), LastBlockE(2048)
        self.fc = nn.Linear(2048, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, 2048)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = max_pool2d(x, 3, 2)
        x = max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return x.mean((2, 3))

    def head(self, features: Tensor) -> Tensor:
        """Return the logits (N, 1008) without the bias, as the inception score of TensorFlow does."""
        return features @ self.fc.weight.T


def load_inception(path: Path) -> InceptionV3:
    """Return the network with weights from a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds other weights.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"method.inception_weights: {path} is missing. Put one of {' or '.join(FILES)} there, or set "
            "method.inception_weights=null to leave out IS, FID and KID"
        )
    network = InceptionV3()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file raises nearly anything
        raise ValueError(
            f"method.inception_weights: {path} does not hold the weights of the FID's Inception-v3 "
            f"({' or '.join(FILES)}): {str(error)[:300]}"
        ) from error
    return network.eval().requires_grad_(False)


def resized_for_inception(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) in [-1, 1] as RGB of 299 x 299 in [-1, 1].

    Each channel is resized as float32 by PIL's bicubic filter, as clean-fid does; grey is repeated.
    """
    from PIL import Image

    pixels = (images.cpu().float() + 1) * 127.5
    resized = [
        np.stack(
            [np.asarray(Image.fromarray(c.numpy(), "F").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for c in x]
        )
        for x in pixels
    ]
    result = torch.from_numpy(np.stack(resized)).clamp(0, 255)
    result = result.expand(-1, 3, -1, -1) if result.shape[1] == 1 else result
    return ((result - 128) / 128).to(images.device)
