"""Adversarial weight perturbation (AWP, Wu et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from datasets.checks import check_count, check_not_negative
from methods.f2at.lr_schedules import epochs_at


class WeightPerturbation:
    """Move weights up the loss before the gradient is taken, and back after the optimizer's step.

    Each weight tensor of more than one dimension moves along the gradient of the loss by `gamma` times its own norm.

    Args:
        gamma: length of the move, relative to the norm of each weight tensor.
        warmup_epochs: epochs without perturbation.
        total_epochs: length of the training that `warmup_epochs` refers to; it is scaled to trainings of other lengths.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(self, gamma: float, warmup_epochs: int = 0, total_epochs: int = 1) -> None:
        check_not_negative("method.weight_perturbation", gamma=gamma, warmup_epochs=warmup_epochs)
        check_count("method.weight_perturbation", total_epochs=total_epochs)
        self.gamma, self.warmup_epochs, self.total_epochs = gamma, warmup_epochs, total_epochs
        self._moves: list[tuple[Tensor, Tensor]] = []

    def is_active(self, progress: float) -> bool:
        """Return whether weights are perturbed at a training progress in [0, 1]."""
        return epochs_at(progress, self.total_epochs) >= self.warmup_epochs

    def apply(self, network: nn.Module, loss: Callable[[], Tensor]) -> None:
        """Move the weights up the loss. Buffers, such as batch norm's running statistics, stay as they were.

        Args:
            network: network whose weights move; `restore` moves them back.
            loss: computes the loss with the network's present weights.
        """
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        weights = [w for w in network.parameters() if w.dim() > 1 and w.requires_grad]
        gradients = torch.autograd.grad(loss(), weights)
        with torch.no_grad():
            for name, value in network.named_buffers():
                value.copy_(buffers[name])
            for weight, gradient in zip(weights, gradients, strict=True):
                move = self.gamma * weight.norm() / (gradient.norm() + 1e-20) * gradient
                weight.add_(move)
                self._moves.append((weight, move))
        torch.clear_autocast_cache()  # it holds the weights as they were before

    @torch.no_grad()
    def restore(self) -> None:
        """Move the weights back."""
        for weight, move in self._moves:
            weight.sub_(move)
        self._moves = []
        torch.clear_autocast_cache()
