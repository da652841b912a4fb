"""Encoders of the input x -> code c (paper, supplementary 1.2), and of points with their occupancy -> q(z)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import relu

from methods.architectures.resnet import check_blocks, projected, stages
from methods.occnet.blocks import ResidualLinear

# ImageNet's statistics, of images in [0, 1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNTER = "num_batches_tracked"  # of a batch norm; the published weights are older than it


class PointCloudEncoder(nn.Module):
    """Residual PointNet: after each of five blocks the maximum over the points joins every point's features.

    (B, N, 3) -> (B, c_dim). 6,825,472 parameters at the paper's sizes.
    """

    inputs = "pointcloud"

    def __init__(self, num_shapes: int, hidden: int = 512, c_dim: int = 512) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.lift = nn.Linear(3, 2 * hidden)
        self.blocks = nn.ModuleList(ResidualLinear(2 * hidden, hidden) for _ in range(5))
        self.out = nn.Linear(hidden, c_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for block in self.blocks[:-1]:
            x = block(x)
            x = torch.cat([x, x.amax(1, keepdim=True).expand_as(x)], dim=-1)
        return self.out(relu(self.blocks[-1](x).amax(1)))


class VoxelEncoder(nn.Module):
    """Five convolutions, all but the first of stride 2. (B, R, R, R) with R a multiple of 16 -> (B, c_dim).

    resolution: R. channels: of the five; 5,750,848 parameters at the paper's sizes.
    """

    inputs = "voxels"

    def __init__(
        self,
        num_shapes: int,
        c_dim: int = 256,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        resolution: int = 32,
    ) -> None:
        super().__init__()
        shrink = 2 ** (len(channels) - 1)
        if resolution % shrink:
            raise ValueError(f"{len(channels)} channels need a resolution that is a multiple of {shrink}")
        self.c_dim, self.resolution = c_dim, resolution
        widths = [1, *channels]
        self.convs = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (a, b) in enumerate(zip(widths, channels, strict=False))
        )
        self.out = nn.Linear(channels[-1] * (resolution // shrink) ** 3, c_dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (self.resolution,) * 3:
            raise ValueError(f"the encoder takes {self.resolution}^3 voxels, got {tuple(x.shape[1:])}")
        x = x[:, None]
        for conv in self.convs:
            x = relu(conv(x))
        return self.out(x.flatten(1))


class ImageEncoder(nn.Module):
    """ResNet-18 with ImageNet's stem, its last layer replaced by a linear one. (B, 3, H, W) in [0, 1] -> (B, c_dim).

    weights: a file with torchvision's ResNet-18 `state_dict`, as the paper starts from; None: from scratch.
    width: channels of the first stage. Raises FileNotFoundError or ValueError where the weights are not there or do not
    fit.
    """

    inputs = "image"

    def __init__(
        self,
        num_shapes: int,
        c_dim: int = 256,
        weights: str | None = None,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
    ) -> None:
        super().__init__()
        check_blocks(blocks)
        self.c_dim = c_dim
        widths = [width * 2**i for i in range(len(blocks))]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = stages(projected, width, widths, blocks)
        self.out = nn.Linear(widths[-1], c_dim)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        if weights:
            self.load_torchvision(Path(weights))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem((x - self.mean) / self.std))
        return self.out(x.mean((2, 3)))

    def load_torchvision(self, path: Path) -> None:
        """Takes over the weights of everything but the last layer."""
        if not path.is_file():
            raise FileNotFoundError(f"model.encoders.image.weights names no file: {path}")
        given = torch.load(path, map_location="cpu", weights_only=True)
        theirs = {k: v for k, v in given.items() if not k.startswith("fc.") and not k.endswith(COUNTER)}
        ours = {k: v for k, v in self.state_dict().items() if not k.startswith("out.") and not k.endswith(COUNTER)}
        if len(theirs) != len(ours):
            raise ValueError(f"{path} has {len(theirs)} tensors below its last layer, this network has {len(ours)}")
        named = {torchvision_name(k): k for k in ours}
        bad = [k for k, v in theirs.items() if k not in named or ours[named[k]].shape != v.shape]
        if bad:
            raise ValueError(f"{path} is no ResNet-18 of torchvision's of this width: {', '.join(bad[:3])}, ...")
        self.load_state_dict({named[k]: v for k, v in theirs.items()}, strict=False)


def torchvision_name(name: str) -> str:
    """Torchvision's name of a tensor: stages.1.0.shortcut.0.weight -> layer2.0.downsample.0.weight."""
    parts = name.split(".")
    if parts[0] == "stem":
        return ".".join([{"0": "conv1", "1": "bn1"}[parts[1]], *parts[2:]])
    return ".".join([f"layer{int(parts[1]) + 1}", parts[2], parts[3].replace("shortcut", "downsample"), *parts[4:]])


class IndexEncoder(nn.Module):
    """A code of its own for each shape, learned with the decoder (representation power). (B,) int64 -> (B, c_dim)."""

    inputs = "index"

    def __init__(self, num_shapes: int, c_dim: int = 512) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.codes = nn.Embedding(num_shapes, c_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.codes(x)


class LatentEncoder(nn.Module):
    """PointNet over points with their occupancy -> q(z | p, o, c), normal with diagonal covariance (paper, section
    3.1).

    Forward: p (B, T, 3), o (B, T), c (B, c_dim) -> Normal over (B, z_dim).
    """

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.of_points = nn.Linear(3, hidden)
        self.of_occupancy = nn.Linear(1, hidden)
        self.of_code = nn.Linear(c_dim, hidden) if c_dim else None
        self.layers = nn.ModuleList(nn.Linear(2 * hidden if i else hidden, hidden) for i in range(3))
        self.mean = nn.Linear(hidden, z_dim)
        self.log_std = nn.Linear(hidden, z_dim)

    def forward(self, p: Tensor, o: Tensor, c: Tensor) -> Normal:
        x = self.of_points(p) + self.of_occupancy(o[..., None])
        if self.of_code is not None:
            x = x + self.of_code(c)[:, None]
        for i, layer in enumerate(self.layers):
            if i:
                x = torch.cat([x, x.amax(1, keepdim=True).expand_as(x)], dim=-1)
            x = layer(relu(x))
        x = x.amax(1)
        return Normal(self.mean(x), self.log_std(x).exp())
