"""FSVAE: spiking variational autoencoder with autoregressive Bernoulli latents (Kamata et al., AAAI 2022)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from datasets.checks import check_positive
from methods.esvae.networks import Encoded, NeuronFactory, SpikingAutoencoder, SpikingBlock
from methods.esvae.readout import AttentionReadout

FIRST_SCHEDULED = 5  # step from which the prior's input may be replaced


class BernoulliNetwork(nn.Module):
    """Three spiking linear layers that give k spikes for each latent dimension; causal in time.

    Args:
        in_dim: number of inputs.
        latent_dim: number of latent dimensions D.
        k: spikes for each dimension; their mean is the probability of a latent spike.
        neuron: factory of the neurons of a layer.

    Shapes:
        (T, N, in_dim) -> spikes (T, N, D, k).
    """

    def __init__(self, in_dim: int, latent_dim: int, k: int, neuron: NeuronFactory) -> None:
        super().__init__()
        sizes = [in_dim, 2 * latent_dim, 4 * latent_dim, k * latent_dim]
        self.shape = (latent_dim, k)
        self.blocks = nn.ModuleList(
            SpikingBlock(nn.Linear(a, b), b, neuron(), alpha=2.0) for a, b in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes of all steps of x, from rest. x may be a prefix of the sequence."""
        for block in self.blocks:
            x = block(x)
        return x.unflatten(2, self.shape)

    def step(self, x: Tensor, states: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the spikes (N, D, k) of one step and the states of the layers. For evaluation mode.

        In training mode the batch statistics of a prefix change with every step, so only `forward` on the prefix is
        exact.
        """
        after: list[Tensor | None] = []
        for block, state in zip(self.blocks, states, strict=True):
            x, new = cast(SpikingBlock, block).step(x, state)
            after.append(new)
        return x.unflatten(1, self.shape), after

    def rest(self) -> list[Tensor | None]:
        """Return the states before the first step."""
        return [None] * len(self.blocks)


def pick(spikes: Tensor, index: Tensor) -> Tensor:
    """Return one of the k spikes of each dimension.

    Shapes:
        spikes (..., D, k), index (..., D) int64 -> (..., D).
    """
    return spikes.gather(-1, index[..., None])[..., 0]


class FSVAE(SpikingAutoencoder):
    """Fully spiking variational autoencoder.

    The posterior of step t depends on the encoder's spikes up to t and the latent spikes before t, the prior on the
    latent spikes before t. Both are the mean over k spikes; a latent spike is one of the k, picked uniformly.
    `posterior` and `prior` of `Encoded` are the probabilities (T, N, D).

    The posterior takes two passes: one without gradient that draws the latent spikes step by step, each time running
    the network on the whole prefix, and one with gradient on all steps that picks the same of the k spikes. In training
    mode the first pass updates the running statistics T - 1 times, as in the official code; in evaluation mode it
    keeps the state of the neurons and runs each step once, with equal results.

    Args:
        k: spikes for each latent dimension.
        scheduled: first and last probability, over the epochs, that the prior's input from step 5 on is its own
            prediction rather than the posterior's spike; null: never.
        **kwargs: arguments of `SpikingAutoencoder`.
    """

    def __init__(self, *args: Any, k: int = 20, scheduled: Sequence[float] | None = (0.1, 0.3), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_positive("model", k=k)
        if scheduled is not None and (len(scheduled) != 2 or not all(0 <= p <= 1 for p in scheduled)):
            raise ValueError(f"model.scheduled must be two probabilities or null, got {list(scheduled)}")
        self.k, self.scheduled = k, scheduled
        self.probability = scheduled[0] if scheduled else 0.0
        self.posterior = BernoulliNetwork(2 * self.latent_dim, self.latent_dim, k, self.make_neuron)
        self.prior = BernoulliNetwork(self.latent_dim, self.latent_dim, k, self.make_neuron)

    def set_progress(self, fraction: float) -> None:
        """Set the probability of scheduled sampling."""
        if self.scheduled:
            first, last = self.scheduled
            self.probability = first + (last - first) * fraction

    def encode(self, x: Tensor) -> Encoded:
        """Encode images to latent spikes drawn from the posterior."""
        features = self.encoder(x)
        index = torch.randint(self.k, features.shape, device=x.device)
        latents, posterior = self.posterior_pass(features, index)
        prior = self.prior(self.prior_inputs(latents.detach())).mean(-1)
        return Encoded(latents, posterior, prior)

    def posterior_pass(self, features: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return latent spikes and the probabilities of the posterior.

        Shapes:
            features (T, N, D) spikes, index (T, N, D) in 0..k-1 -> latents (T, N, D), probabilities (T, N, D).
        """
        with torch.no_grad():
            before = self.drawn_by_prefix(features, index) if self.training else self.drawn_by_step(features, index)
        spikes = self.posterior(torch.cat([features, before], dim=2))
        return pick(spikes, index), spikes.mean(-1)

    def drawn_by_prefix(self, features: Tensor, index: Tensor) -> Tensor:
        """Return the latent spikes z_0, ..., z_{T-1} (T, N, D), z_0 = 0, by running each prefix anew."""
        before = torch.zeros_like(features)
        for t in range(len(features) - 1):
            spikes = self.posterior(torch.cat([features[: t + 1], before[: t + 1]], dim=2))
            before[t + 1] = pick(spikes[-1], index[t])
        return before

    def drawn_by_step(self, features: Tensor, index: Tensor) -> Tensor:
        """Return the same spikes in evaluation mode, step by step with the state of the neurons."""
        before, states = torch.zeros_like(features), self.posterior.rest()
        for t in range(len(features) - 1):
            spikes, states = self.posterior.step(torch.cat([features[t], before[t]], dim=1), states)
            before[t + 1] = pick(spikes, index[t])
        return before

    @torch.no_grad()
    def prior_inputs(self, latents: Tensor) -> Tensor:
        """Return the inputs of the prior: the latent spikes shifted by one step, some replaced in training."""
        inputs = torch.cat([torch.zeros_like(latents[:1]), latents[:-1]])
        if not self.training or self.scheduled is None:
            return inputs
        for t in range(FIRST_SCHEDULED, len(latents) - 1):
            if random.random() < self.probability:
                predicted = self.prior(inputs[: t + 1])[-1].mean(-1)
                inputs[t + 1] = (predicted + 1e-3 * torch.randn_like(predicted) > 0.5).to(inputs)
        return inputs

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Return latent spikes (T, count, D) drawn from the prior."""
        index = torch.randint(self.k, (self.steps, count, self.latent_dim), device=self.device)
        return self.sampled_by_prefix(index) if self.training else self.sampled_by_step(index)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def sampled_by_prefix(self, index: Tensor) -> Tensor:
        """Return spikes drawn from the prior, running each prefix anew, as in the official code.

        Shapes:
            index (T, N, D) in 0..k-1 -> (T, N, D).
        """
        inputs = torch.zeros(len(index) + 1, *index.shape[1:], device=index.device)
        for t in range(len(index)):
            inputs[t + 1] = pick(self.prior(inputs[: t + 1])[-1], index[t])
        return inputs[1:]

    def sampled_by_step(self, index: Tensor) -> Tensor:
        """Return the same spikes in evaluation mode, in T steps in place of T (T + 1) / 2."""
        spikes, states, drawn = torch.zeros(index.shape[1:], device=index.device), self.prior.rest(), []
        for t in range(len(index)):
            choices, states = self.prior.step(spikes, states)
            spikes = pick(choices, index[t])
            drawn.append(spikes)
        return torch.stack(drawn)


class TAID(FSVAE):
    """FSVAE whose readout weighs the time steps by learned attention (Qiu et al., ICLR 2023 Tiny Papers)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, readout=AttentionReadout, **kwargs)
