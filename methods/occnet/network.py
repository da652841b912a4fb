"""Networks of the paper's comparison: an encoder that the data's inputs call for, and a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from methods.occnet.decoders import make_decoder
from methods.occnet.encoders import LatentEncoder

MakeEncoder = Callable[..., nn.Module]


def make_encoder(inputs: str, num_shapes: int, encoders: Mapping[str, MakeEncoder]) -> nn.Module | None:
    """The encoder for these inputs, None for `none`. Raises ValueError where `encoders` has none, or another."""
    if inputs == "none":
        return None
    if inputs not in encoders:
        raise ValueError(
            f"dataset.inputs={inputs} needs an encoder: model.encoders.{inputs}; there are {', '.join(encoders)}"
        )
    encoder = encoders[inputs](num_shapes=num_shapes)
    if encoder.inputs != inputs:
        raise ValueError(f"model.encoders.{inputs} is an encoder of {encoder.inputs}")
    return encoder


class Encoded(nn.Module):
    """What all networks share: `encode`, inputs of a `ShapeBatch` -> codes (B, c_dim), c_dim 0 where it has no encoder.

    Args:
        inputs, num_shapes: dims of the data. encoders: kind of input -> what makes its encoder.
    """

    tasks = ("shape-reconstruction",)

    def __init__(self, inputs: str, num_shapes: int, encoders: Mapping[str, MakeEncoder]) -> None:
        super().__init__()
        self.inputs = inputs
        self.encoder = make_encoder(inputs, num_shapes, encoders)
        self.c_dim = self.encoder.c_dim if self.encoder is not None else 0

    def encode(self, x: Tensor) -> Tensor:
        return x if self.encoder is None else self.encoder(x)

    def check_encoder(self) -> None:
        if self.encoder is None:
            raise ValueError(
                "this model needs an input to reconstruct from; dataset.inputs=none goes with model=onet_vae"
            )


class OccupancyNetwork(Encoded):
    """f(p, x): logit of the probability that point p lies inside the shape seen as x (paper, equation 1).

    Forward: p (B, T, 3), x -> logits (B, T), with z = 0 where there is a latent code.

    Args:
        decoder: a name of `DECODERS`, hidden and blocks its sizes. z_dim: of the latent code of a generative model; 0:
            none. The others: as of `Encoded`.
    Raises ValueError for unknown names, sizes that are not positive, and parts that do not fit.
    """

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, MakeEncoder],
        decoder: str = "cbatchnorm",
        hidden: int = 256,
        blocks: int = 5,
        z_dim: int = 0,
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        if z_dim < 0:
            raise ValueError(f"model.z_dim must not be negative, got {z_dim}")
        self.z_dim = z_dim
        self.decoder = make_decoder(decoder, self.c_dim, z_dim, hidden, blocks)
        self.latent_encoder = LatentEncoder(self.c_dim, z_dim) if z_dim else None

    def forward(self, p: Tensor, x: Tensor) -> Tensor:
        return self.decoder(p, p.new_zeros(len(p), self.z_dim), self.encode(x))

    def infer(self, p: Tensor, o: Tensor, c: Tensor) -> Normal | None:
        """q(z | p, o, c), None for a network without latent code. p: (B, T, 3), o: (B, T)."""
        return None if self.latent_encoder is None else self.latent_encoder(p, o, c)

    def prior(self, count: int) -> Tensor:
        """`count` latent codes from N(0, I): (count, z_dim), on the CPU's generator."""
        return torch.randn(count, self.z_dim)


class VoxelNetwork(Encoded):
    """3D-R2N2's decoder (Choy et al., ECCV 2016) without recurrence, as the paper compares with it. x -> (B, 32, 32,
    32).

    channels: of the four volumes of 4, 8, 16 and 32 voxels a side. The others: as of `Encoded`.
    """

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, MakeEncoder],
        channels: tuple[int, ...] = (256, 128, 64, 32),
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        self.check_encoder()
        if len(channels) != 4:
            raise ValueError(f"model.channels must be four numbers, of 4^3 to 32^3 voxels, got {list(channels)}")
        self.channels = tuple(channels)
        self.seed = nn.Linear(self.c_dim, channels[0] * 4**3)
        layers: list[nn.Module] = []
        for a, b in pairwise(channels):
            layers += [nn.ReLU(), nn.ConvTranspose3d(a, b, 3, stride=2, padding=1, output_padding=1)]
        self.grow = nn.Sequential(*layers, nn.ReLU(), nn.Conv3d(channels[-1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        seed = self.seed(self.encode(x)).view(-1, self.channels[0], 4, 4, 4)
        return self.grow(seed).squeeze(1)


class PointSetNetwork(Encoded):
    """PSGN's fully connected decoder (Fan et al., CVPR 2017), as the paper compares with it. x -> (B, points, 3)."""

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, MakeEncoder],
        hidden: int = 512,
        points: int = 1024,
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        self.check_encoder()
        if points < 1:
            raise ValueError(f"model.points must be positive, got {points}")
        self.layers = nn.Sequential(
            nn.Linear(self.c_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 3 * points),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.encode(x)).view(len(x), -1, 3)


class PatchNetwork(Encoded):
    """AtlasNet (Groueix et al., CVPR 2018): each patch maps the unit square into space. (uv, x) -> points.

    Forward: uv (B, patches, n, 2) in [0, 1], x -> points (B, patches, n, 3) in [-1, 1].

    Args:
        patches: how many maps, 25 as in the paper's comparison. hidden: width of their first layer; the next have half
            and a quarter. The others: as of `Encoded`.
    """

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, MakeEncoder],
        patches: int = 25,
        hidden: int = 1024,
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        self.check_encoder()
        if patches < 1 or hidden < 4:
            raise ValueError(f"model.patches must be positive and model.hidden at least 4, got {patches} and {hidden}")
        sizes = [hidden, hidden // 2, hidden // 4, 3]
        # of all patches at once; the first layer is split into what it does to uv and to the code, which saves its
        # product with the same code for every point
        self.of_code = nn.Linear(self.c_dim, patches * hidden)
        self.of_square = nn.Parameter(_uniform(patches, 2, hidden, fan_in=2 + self.c_dim))
        self.weights = nn.ParameterList(_uniform(patches, a, b, fan_in=a) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(_uniform(patches, 1, b, fan_in=a) for a, b in pairwise(sizes))
        self.patches = patches

    def forward(self, uv: Tensor, x: Tensor) -> Tensor:
        of_code = self.of_code(self.encode(x)).view(len(x), self.patches, 1, -1)
        h = uv @ self.of_square + of_code
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = torch.relu(h) @ weight + bias
        return torch.tanh(h)


class NoNetwork(nn.Module):
    """For methods that train nothing."""

    tasks = ("shape-reconstruction",)

    def __init__(self, inputs: str, num_shapes: int) -> None:
        super().__init__()


def _uniform(*shape: int, fan_in: int) -> Tensor:
    bound = fan_in**-0.5
    return torch.empty(*shape).uniform_(-bound, bound)
