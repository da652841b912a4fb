"""Occupancy network: an encoder for the kind of input, and a decoder of points."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Normal

from datasets.checks import check_not_negative
from methods.occnet.conditioned import ConditionedNetwork, EncoderFactory
from methods.occnet.decoders import make_decoder
from methods.occnet.encoders import LatentEncoder


class OccupancyNetwork(ConditionedNetwork):
    """Logit f(p, x) of the probability that point p lies inside the shape seen as x (paper, equation 1).

    Args:
        inputs: kind of input, from the data set.
        num_shapes: number of training shapes, from the data set.
        encoders: factory of the encoder for each kind of input.
        decoder: name of the decoder, of `DECODERS`.
        hidden: features per point in the decoder.
        blocks: residual blocks of the decoder.
        z_dim: size of the latent code of a generative model; 0: none.

    Shapes:
        p (B, T, 3), x -> logits (B, T), with latent code 0

    Raises:
        ValueError: for unknown names, sizes that are not positive, and parts that do not fit.
    """

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, EncoderFactory],
        decoder: str = "cbatchnorm",
        hidden: int = 256,
        blocks: int = 5,
        z_dim: int = 0,
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        check_not_negative("model", z_dim=z_dim)
        self.z_dim = z_dim
        self.decoder = make_decoder(decoder, self.c_dim, z_dim, hidden, blocks)
        self.latent_encoder = LatentEncoder(self.c_dim, z_dim) if z_dim else None

    def forward(self, p: Tensor, x: Tensor) -> Tensor:
        """Return logits (B, T)."""
        return self.decoder(p, p.new_zeros(len(p), self.z_dim), self.encode(x))

    def infer_z(self, p: Tensor, o: Tensor, c: Tensor) -> Normal | None:
        """Return q(z | p, o, c) for points p (B, T, 3) with occupancy o (B, T); None without latent code."""
        return None if self.latent_encoder is None else self.latent_encoder(p, o, c)

    def sample_prior(self, count: int) -> Tensor:
        """Draw latent codes (count, z_dim) from N(0, I), with the random generator of the CPU."""
        return torch.randn(count, self.z_dim)
