"""Spiking encoder and decoder, and the autoencoders ESVAE and SAE made of them.

Time comes first: spikes are (T, N, ...), T steps of N images. A layer without memory is applied once to the merged
T * N batch. Images are (N, C, H, W) in [-1, 1].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datasets.checks import check_positive
from methods.esvae.lif import LIF, lif_step
from methods.esvae.readout import MembraneReadout
from methods.esvae.sampling import BernoulliSampler
from methods.esvae.tdbn import ThresholdBatchNorm

TASKS = ("image-classification", "image-generation")

NeuronFactory = Callable[[], LIF]


class Encoded(NamedTuple):
    """Encoded batch.

    Args:
        latents: input of the decoder: spikes (T, N, D), or values (N, D) of an ordinary autoencoder.
        posterior: first argument of the divergence.
        prior: second argument of the divergence.
    """

    latents: Tensor
    posterior: Tensor
    prior: Tensor


class Autoencoder(nn.Module):
    """Base class of all autoencoders here.

    Attributes:
        latent_dim: size D of the latent vector.
        generative: whether `sample` draws latents from a prior.
    """

    tasks = TASKS
    latent_dim: int
    generative = True

    def encode(self, x: Tensor) -> Encoded:
        """Encode images (N, C, H, W) in [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} defines no encode")

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1) of latents."""
        raise NotImplementedError(f"{type(self).__name__} defines no decode")

    def sample(self, count: int) -> Tensor:
        """Return `count` latents drawn from the prior."""
        raise NotImplementedError(f"{type(self).__name__} cannot generate images: it has no prior")

    def representation(self, x: Tensor) -> Tensor:
        """Return a vector (N, D) for each image: firing rates of the latent layer, or means of the posterior."""
        raise NotImplementedError(f"{type(self).__name__} defines no representation")

    def latents_of(self, representation: Tensor) -> Tensor:
        """Return latents for the decoder of vectors (N, D) such as `representation` returns."""
        return representation

    def prior_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train with the learning rate of the prior."""
        return []

    def set_progress(self, fraction: float) -> None:
        """Tell the network which fraction of the training epochs is over; by default nothing depends on it."""


class SpikingBlock(nn.Module):
    """Layer, threshold-dependent batch normalisation and neurons.

    Args:
        layer: linear layer or convolution, without memory.
        channels: number of output channels.
        neuron: neurons that follow.
        alpha: extra factor of the normalisation.

    Shapes:
        (T, N, ...) -> spikes (T, N, ...); with `steps`, also (1, N, ...) -> (steps, N, ...).
    """

    def __init__(self, layer: nn.Module, channels: int, neuron: LIF, alpha: float = 1.0) -> None:
        super().__init__()
        self.layer, self.neuron = layer, neuron
        self.norm = ThresholdBatchNorm(channels, neuron.dynamics.threshold, alpha)

    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Return the spikes of all steps, from rest.

        Args:
            x: inputs of all steps, or of one step that is repeated: it passes the layer once.
            steps: number of time steps; None: as many as x has.
        """
        steps = len(x) if steps is None else steps
        y = self.norm(self.layer(x.flatten(0, 1)), repeats=steps // len(x))
        return self.neuron(y.unflatten(0, x.shape[:2]), steps)

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the spikes (N, ...) of one step and the state for the next; None stands for rest."""
        y = self.norm(self.layer(x))
        return lif_step(y, torch.zeros_like(y) if state is None else state, self.neuron.dynamics)


def check_network(image_size: int, widths: Sequence[int], latent_dim: int) -> int:
    """Return the side of the innermost feature map.

    Raises:
        ValueError: the image cannot be halved once per width without a rest, or a size is not positive.
    """
    check_positive("model", latent_dim=latent_dim, **{f"widths[{i}]": width for i, width in enumerate(widths)})
    factor = 2 ** len(widths)
    if not widths or image_size % factor:
        raise ValueError(
            f"model.widths={list(widths)} halves images {len(widths)} times, so their side must be a multiple of "
            f"{factor}; images of this data set are {image_size} x {image_size}. Choose a data set with another size "
            "(dataset=mnist32, dataset=digits32, or dataset.size=32 where there is such a key), or other widths"
        )
    return image_size // factor


def downsampling(in_channels: int, widths: Sequence[int]) -> Iterator[tuple[nn.Conv2d, int]]:
    """Yield the encoder's convolutions, 3x3 with stride 2, and their output channels."""
    for width in widths:
        yield nn.Conv2d(in_channels, width, 3, stride=2, padding=1), width
        in_channels = width


def upsampling(widths: Sequence[int]) -> Iterator[tuple[nn.ConvTranspose2d, int]]:
    """Yield the decoder's transposed convolutions, 3x3 with stride 2, and their output channels.

    The last one keeps the number of channels: it is the first layer of the official "final layer".
    """
    reverse = [*reversed(widths), widths[0]]
    for before, after in itertools.pairwise(reverse):
        yield nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1), after


class SpikingEncoder(nn.Module):
    """Convolutions of stride 2 and a linear layer, all spiking; direct coding of the image.

    The image is a constant input current, so the first convolution runs once for all steps.

    Args:
        in_channels: number of image channels C.
        image_size: side of the image.
        widths: output channels of each convolution.
        latent_dim: number of latent neurons D.
        steps: number of time steps T.
        neuron: factory of the neurons of a layer.

    Shapes:
        images (N, C, H, W) -> spikes (T, N, D).
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        widths: Sequence[int],
        latent_dim: int,
        steps: int,
        neuron: NeuronFactory,
    ) -> None:
        super().__init__()
        side = check_network(image_size, widths, latent_dim)
        self.in_channels, self.image_size, self.steps = in_channels, image_size, steps
        self.convs = nn.ModuleList(
            SpikingBlock(layer, width, neuron()) for layer, width in downsampling(in_channels, widths)
        )
        self.latent = SpikingBlock(nn.Linear(widths[-1] * side**2, latent_dim), latent_dim, neuron())

    def forward(self, x: Tensor) -> Tensor:
        """Return the latent spikes."""
        expected = (self.in_channels, self.image_size, self.image_size)
        if x.shape[1:] != expected:
            raise ValueError(f"images of {tuple(x.shape[1:])} (channels, height, width), the network takes {expected}")
        first, *rest = self.convs
        h = first(x[None], self.steps)
        for block in rest:
            h = block(h)
        return self.latent(h.flatten(2))


class SpikingDecoder(nn.Module):
    """Linear layer, transposed convolutions, and a readout of all steps.

    Args:
        out_channels: number of image channels C.
        image_size: side of the image.
        widths: channels of the encoder's convolutions, in its order.
        latent_dim: number of latent neurons D.
        neuron: factory of the neurons of a layer.
        readout: makes the readout of the last transposed convolution.

    Shapes:
        spikes (T, N, D) -> images (N, C, H, W) in (-1, 1).
    """

    def __init__(
        self,
        out_channels: int,
        image_size: int,
        widths: Sequence[int],
        latent_dim: int,
        neuron: NeuronFactory,
        readout: Callable[[nn.ConvTranspose2d], nn.Module],
    ) -> None:
        super().__init__()
        side = check_network(image_size, widths, latent_dim)
        self.inner = (widths[-1], side, side)
        inner_size = widths[-1] * side**2
        self.input = SpikingBlock(nn.Linear(latent_dim, inner_size), inner_size, neuron())
        self.deconvs = nn.ModuleList(SpikingBlock(layer, width, neuron()) for layer, width in upsampling(widths))
        self.readout = readout(nn.ConvTranspose2d(widths[0], out_channels, 3, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """Return the images."""
        h = self.input(latents).unflatten(2, self.inner)
        for block in self.deconvs:
            h = block(h)
        return self.readout(h)


class SpikingAutoencoder(Autoencoder):
    """Encoder and decoder that all spiking autoencoders share.

    Args:
        in_channels: number of image channels C.
        image_size: side of the image.
        num_classes: unused; data sets of labelled images give it.
        mean: unused; images are scaled to [-1, 1].
        std: unused.
        widths: output channels of each convolution; four of them for 32x32 images, five for 64x64.
        latent_dim: number of latent neurons D.
        steps: number of time steps T.
        neuron: arguments of `LIF`.
        readout: makes the readout of the last layer from that layer and the number of steps.

    Raises:
        ValueError: an argument is out of range, or the image size does not fit the widths.
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
        steps: int = 16,
        neuron: Mapping[str, Any] | None = None,
        readout: Callable[[nn.ConvTranspose2d, int], nn.Module] = MembraneReadout,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"model.steps, the number of time steps, must be at least 1, got {steps}")
        self.latent_dim, self.steps, self.neuron_options = latent_dim, steps, dict(neuron or {})
        self.encoder = SpikingEncoder(in_channels, image_size, widths, latent_dim, steps, self.make_neuron)
        self.decoder = SpikingDecoder(
            in_channels, image_size, widths, latent_dim, self.make_neuron, lambda layer: readout(layer, steps)
        )

    def make_neuron(self) -> LIF:
        """Return the neurons of one layer."""
        return LIF(**self.neuron_options)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1) of spikes (T, N, D)."""
        return self.decoder(latents)

    def representation(self, x: Tensor) -> Tensor:
        """Return the firing rates (N, D) of the latent layer."""
        return self.encoder(x).mean(0)

    def latents_of(self, representation: Tensor) -> Tensor:
        """Return spikes (T, N, D) drawn with the given rates, by the network's own sampler if it has one."""
        return getattr(self, "sampler", BernoulliSampler())(representation, self.steps)


class ESVAE(SpikingAutoencoder):
    """Spiking variational autoencoder with Poisson spiking sampling.

    The firing rates of the latent layer parameterise the posterior, those of a linear layer with a sigmoid, fed with
    normal noise, the prior. Both are sampled to spikes step by step. `posterior` and `prior` of `Encoded` are the
    rates (N, D). (The paper's figure calls the posterior p and the prior q, its code the other way round.)

    The official class also registers the prior and posterior networks of FSVAE, which it never uses; they are left
    out.

    Args:
        sampler: draws spikes (T, N, D) from rates (N, D).
        **kwargs: arguments of `SpikingAutoencoder`.
    """

    def __init__(self, *args: Any, sampler: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sampler = sampler or BernoulliSampler()
        self.prior = nn.Linear(self.latent_dim, self.latent_dim)

    def prior_rates(self, count: int) -> Tensor:
        """Return firing rates (count, D) drawn from the prior."""
        noise = torch.randn(count, self.latent_dim, device=self.prior.weight.device, dtype=self.prior.weight.dtype)
        return self.prior(noise).sigmoid()

    def encode(self, x: Tensor) -> Encoded:
        """Encode images to sampled spikes; the prior's noise is drawn first, as in the official code."""
        posterior = self.representation(x)
        prior = self.prior_rates(len(x))
        return Encoded(self.sampler(posterior, self.steps), posterior, prior)

    def sample(self, count: int) -> Tensor:
        """Return spikes (T, count, D) drawn from the prior."""
        return self.sampler(self.prior_rates(count), self.steps)

    def prior_parameters(self) -> list[nn.Parameter]:
        """Return weight and bias of the prior's linear layer."""
        return list(self.prior.parameters())


class SAE(SpikingAutoencoder):
    """Spiking autoencoder without sampling: latent spikes go straight to the decoder.

    An upper bound for the reconstructions of ESVAE; it generates nothing.
    """

    generative = False

    def encode(self, x: Tensor) -> Encoded:
        """Encode images to the spikes of the latent layer."""
        spikes = self.encoder(x)
        rates = spikes.mean(0)
        return Encoded(spikes, rates, rates)
