"""Weights averaged over training (SEAT), and weights perturbed against the loss (AWP)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.f2at.rates import epochs_of


class MovingAverage(nn.Module):
    """Exponential moving average of a network's weights and buffers (Wang & Wang, ICLR 2022).

    The decay of step t, from 0, is min(decay, (t + 1) / (t + 10)).
    """

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"method.average must lie in [0, 1), got {decay}")
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        t = int(self.steps)
        decay = min(self.decay, (t + 1) / (t + 10))
        theirs = network.state_dict()
        averaged, current = [], []
        for name, ours in self.network.state_dict().items():
            if ours.is_floating_point():
                averaged.append(ours)
                current.append(theirs[name])
            else:
                ours.copy_(theirs[name])
        torch._foreach_lerp_(averaged, current, 1 - decay)
        self.steps += 1


class WeightPerturbation:
    """Adversarial weight perturbation (Wu et al. 2020): the loss is taken where weights were moved against it.

    Args:
        gamma: length of the move, relative to each weight tensor's norm. warmup: epochs, of `of`, without it.
    """

    def __init__(self, gamma: float, warmup: int = 0, of: int = 1) -> None:
        if gamma < 0:
            raise ValueError(f"method.perturbation.gamma must not be negative, got {gamma}")
        self.gamma, self.warmup, self.of = gamma, warmup, of
        self.moves: list[tuple[Tensor, Tensor]] = []

    def begins(self, progress: float) -> bool:
        """progress: share of the training that is past."""
        return epochs_of(progress, self.of) >= self.warmup

    def apply(self, network: nn.Module, loss: Callable[[], Tensor]) -> None:
        """Moves every weight tensor of more than one dimension up the loss; `restore` undoes it."""
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        weights = [w for w in network.parameters() if w.dim() > 1 and w.requires_grad]
        gradients = torch.autograd.grad(loss(), weights)
        with torch.no_grad():
            for name, value in network.named_buffers():  # the look at the loss leaves no trace in the statistics
                value.copy_(buffers[name])
            for weight, gradient in zip(weights, gradients, strict=True):
                move = self.gamma * weight.norm() / (gradient.norm() + 1e-20) * gradient
                weight.add_(move)
                self.moves.append((weight, move))
        torch.clear_autocast_cache()  # it holds what the weights were before

    @torch.no_grad()
    def restore(self) -> None:
        for weight, move in self.moves:
            weight.sub_(move)
        self.moves = []
        torch.clear_autocast_cache()
