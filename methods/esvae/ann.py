"""Ordinary networks: the ANN VAE that the paper compares with, and the autoencoder whose features the FAD uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.esvae.networks import Autoencoder, Encoded, check_network, downsampling, upsampling


class ConvolutionalAutoencoder(Autoencoder):
    """Convolutions of stride 2 with batch normalisation and leaky ReLU, and their mirror image.

    Names of the layers are those of the official code (`ann_models/`), so its checkpoints load.

    Args:
        in_channels: number of image channels C.
        image_size: side of the image.
        num_classes: unused; data sets of labelled images give it.
        mean: unused; images are scaled to [-1, 1].
        std: unused.
        widths: output channels of each convolution.
        latent_dim: size D of the latent vector.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        num_classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        widths: Sequence[int] = (32, 64, 128, 256),
        latent_dim: int = 128,
    ) -> None:
        super().__init__()
        side = check_network(image_size, widths, latent_dim)
        self.latent_dim, self.inner = latent_dim, (widths[-1], side, side)
        self.inner_size = widths[-1] * side**2
        self.encoder = nn.Sequential(*(_activated(*pair) for pair in downsampling(in_channels, widths)))
        self.decoder_input = nn.Linear(latent_dim, self.inner_size)
        *inner, last = (_activated(*pair) for pair in upsampling(widths))
        self.decoder = nn.Sequential(*inner)
        self.final_layer = nn.Sequential(*last, nn.ConvTranspose2d(widths[0], in_channels, 3, padding=1), nn.Tanh())

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1) of latent vectors (N, D)."""
        return self.final_layer(self.decoder(self.decoder_input(latents).unflatten(1, self.inner)))


class ANNVAE(ConvolutionalAutoencoder):
    """Variational autoencoder with a Gaussian posterior. `posterior` of `Encoded` is (2, N, D): mean, log-variance."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fc_mu = nn.Linear(self.inner_size, self.latent_dim)
        self.fc_var = nn.Linear(self.inner_size, self.latent_dim)

    def encode(self, x: Tensor) -> Encoded:
        """Encode images to vectors drawn from the posterior, in evaluation mode too, as in the official code."""
        h = self.encoder(x).flatten(1)
        mean, log_variance = self.fc_mu(h), self.fc_var(h)
        latents = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return Encoded(latents, torch.stack([mean, log_variance]), torch.zeros_like(mean))

    def representation(self, x: Tensor) -> Tensor:
        """Return the mean (N, D) of the posterior."""
        return self.fc_mu(self.encoder(x).flatten(1))

    def sample(self, count: int) -> Tensor:
        """Return vectors (count, D) drawn from the standard normal distribution."""
        return torch.randn(count, self.latent_dim, device=self.fc_mu.weight.device)


class FeatureAutoencoder(ConvolutionalAutoencoder):
    """Autoencoder whose latent vector is the feature of the Frechet autoencoder distance (FAD)."""

    generative = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latent_layer = nn.Linear(self.inner_size, self.latent_dim)

    def encode(self, x: Tensor) -> Encoded:
        """Encode images to their latent vectors."""
        latents = self.representation(x)
        return Encoded(latents, latents, latents)

    def representation(self, x: Tensor) -> Tensor:
        """Return the latent vectors (N, D), without an activation."""
        return self.latent_layer(self.encoder(x).flatten(1))


def _activated(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.LeakyReLU())
