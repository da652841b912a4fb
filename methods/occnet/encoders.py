"""Encoders from the input x to a code c (paper, supplementary 1.2), and from points with occupancy to q(z)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import relu

from datasets.checks import check_count, check_widths
from methods.architectures.resnet import check_blocks, projected, stages
from methods.occnet.blocks import ResnetBlockFC

# statistics of ImageNet, of images in [0, 1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH_COUNTER = "num_batches_tracked"  # of batch norms; the published weights are older than it


class PointCloudEncoder(nn.Module):
    """Residual PointNet: after each of five blocks the maximum over the points is appended to every point's features.

    6,825,472 parameters at the paper's sizes.

    Args:
        num_shapes: not used.
        hidden: features per point.
        c_dim: size of the code.

    Shapes:
        (B, N, 3) -> (B, c_dim)
    """

    inputs = "pointcloud"

    def __init__(self, num_shapes: int, hidden: int = 512, c_dim: int = 512) -> None:
        super().__init__()
        check_count("model.encoders.pointcloud", hidden=hidden, c_dim=c_dim)
        self.c_dim = c_dim
        self.fc_pos = nn.Linear(3, 2 * hidden)
        self.blocks = nn.ModuleList(ResnetBlockFC(2 * hidden, hidden) for _ in range(5))
        self.fc_c = nn.Linear(hidden, c_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        x = self.fc_pos(x)
        for block in self.blocks[:-1]:
            x = block(x)
            x = torch.cat([x, x.amax(1, keepdim=True).expand_as(x)], dim=-1)
        return self.fc_c(relu(self.blocks[-1](x).amax(1)))


class VoxelEncoder(nn.Module):
    """Five convolutions, all but the first with stride 2. 5,750,848 parameters at the paper's sizes.

    Args:
        num_shapes: not used.
        c_dim: size of the code.
        channels: channels of the convolutions.
        resolution: voxels per axis R, a multiple of 2^(number of convolutions - 1).

    Shapes:
        (B, R, R, R) -> (B, c_dim)

    Raises:
        ValueError: if the resolution does not fit.
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
        check_count("model.encoders.voxels", c_dim=c_dim)
        check_widths("model.encoders.voxels", channels=channels)
        shrink = 2 ** (len(channels) - 1)
        if resolution % shrink:
            raise ValueError(f"{len(channels)} channels need a resolution that is a multiple of {shrink}")
        self.c_dim, self.resolution = c_dim, resolution
        widths = [1, *channels]
        self.convs = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (a, b) in enumerate(zip(widths, channels, strict=False))
        )
        self.fc = nn.Linear(channels[-1] * (resolution // shrink) ** 3, c_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        if x.shape[1:] != (self.resolution,) * 3:
            raise ValueError(f"the encoder takes {self.resolution}^3 voxels, got {tuple(x.shape[1:])}")
        x = x[:, None]
        for conv in self.convs:
            x = relu(conv(x))
        return self.fc(x.flatten(1))


class ImageEncoder(nn.Module):
    """ResNet-18 with the stem for ImageNet, its last layer replaced by a linear one.

    Args:
        num_shapes: not used.
        c_dim: size of the code.
        weights: file with the `state_dict` of torchvision's ResNet-18, from which the paper starts; None: random.
        blocks: residual blocks per stage.
        width: channels of the first stage.

    Shapes:
        (B, 3, H, W) in [0, 1] -> (B, c_dim)

    Raises:
        FileNotFoundError: if there is no file of weights.
        ValueError: if the weights do not fit.
    """

    inputs = "image"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_shapes: int,
        c_dim: int = 256,
        weights: str | None = None,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
    ) -> None:
        super().__init__()
        check_count("model.encoders.image", c_dim=c_dim, width=width)
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
        self.fc = nn.Linear(widths[-1], c_dim)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        if weights:
            self.load_torchvision(Path(weights))

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        x = self.stages(self.stem((x - self.mean) / self.std))
        return self.fc(x.mean((2, 3)))

    def load_torchvision(self, path: Path) -> None:
        """Load the weights of all layers but the last from the `state_dict` of torchvision's ResNet-18."""
        if not path.is_file():
            raise FileNotFoundError(f"model.encoders.image.weights is not a file: {path}")
        given = torch.load(path, map_location="cpu", weights_only=True)
        theirs = {k: v for k, v in given.items() if not k.startswith("fc.") and not k.endswith(BATCH_COUNTER)}
        ours = {k: v for k, v in self.state_dict().items() if not k.startswith("fc.") and not k.endswith(BATCH_COUNTER)}
        if len(theirs) != len(ours):
            raise ValueError(f"{path} has {len(theirs)} tensors below its last layer, this network has {len(ours)}")
        named = {torchvision_name(k): k for k in ours}
        bad = [k for k, v in theirs.items() if k not in named or ours[named[k]].shape != v.shape]
        if bad:
            raise ValueError(f"{path} is not a ResNet-18 of torchvision of this width: {', '.join(bad[:3])}, ...")
        self.load_state_dict({named[k]: v for k, v in theirs.items()}, strict=False)


def torchvision_name(name: str) -> str:
    """Return torchvision's name of a tensor: stages.1.0.shortcut.0.weight -> layer2.0.downsample.0.weight."""
    parts = name.split(".")
    if parts[0] == "stem":
        return ".".join([{"0": "conv1", "1": "bn1"}[parts[1]], *parts[2:]])
    return ".".join([f"layer{int(parts[1]) + 1}", parts[2], parts[3].replace("shortcut", "downsample"), *parts[4:]])


class IndexEncoder(nn.Module):
    """Embedding: a code for each training shape, learned with the decoder (representation power).

    Args:
        num_shapes: number of training shapes.
        c_dim: size of the code.

    Shapes:
        (B,) int64 -> (B, c_dim)
    """

    inputs = "index"

    def __init__(self, num_shapes: int, c_dim: int = 512) -> None:
        super().__init__()
        check_count("model.encoders.index", c_dim=c_dim)
        self.c_dim = c_dim
        self.codes = nn.Embedding(num_shapes, c_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        return self.codes(x)


class LatentEncoder(nn.Module):
    """PointNet over points with occupancy, for the approximate posterior q(z | p, o, c) (paper, section 3.1).

    Args:
        c_dim: size of the code of the input; 0: there is none.
        z_dim: size of the latent code.
        hidden: features per point.

    Shapes:
        p (B, T, 3), o (B, T), c (B, c_dim) -> normal distribution over (B, z_dim) with diagonal covariance
    """

    def __init__(self, c_dim: int, z_dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.fc_pos = nn.Linear(3, hidden)
        self.fc_occ = nn.Linear(1, hidden)
        self.fc_c = nn.Linear(c_dim, hidden) if c_dim else None
        self.layers = nn.ModuleList(nn.Linear(2 * hidden if i else hidden, hidden) for i in range(3))
        self.mean = nn.Linear(hidden, z_dim)
        self.log_std = nn.Linear(hidden, z_dim)

    def forward(self, p: Tensor, o: Tensor, c: Tensor) -> Normal:
        """Return q."""
        x = self.fc_pos(p) + self.fc_occ(o[..., None])
        if self.fc_c is not None:
            x = x + self.fc_c(c)[:, None]
        for i, layer in enumerate(self.layers):
            if i:
                x = torch.cat([x, x.amax(1, keepdim=True).expand_as(x)], dim=-1)
            x = layer(relu(x))
        x = x.amax(1)
        return Normal(self.mean(x), self.log_std(x).exp())
