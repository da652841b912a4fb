"""Label correction by a transition matrix that a step learns on clean images anew (MLC)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from methods.checkpoints import weights_below
from methods.famus.meta import after_step, along, cross_entropies
from methods.famus.module import Gated, NoisyTraining


def transition_gradient(logits: Tensor, change: Tensor, y: Tensor) -> Tensor:
    """How the rate of change of the mean cross-entropy of logits T depends on T, at the identity: -> (K, K).

    logits, change: (n, K), and how they change along a direction of the parameters. y: (n,).
    """
    matrix = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device).requires_grad_()
    wrong = (logits.detach() @ matrix).softmax(1) - one_hot(y, logits.shape[1])
    rate = (wrong * (change.detach() @ matrix)).sum(1).mean()
    (gradient,) = torch.autograd.grad(rate, matrix)
    return gradient


def corrected(gradient: Tensor, lr: float) -> Tensor:
    """A step from the identity, without what is negative; columns sum to 1. (K, K) -> (K, K)."""
    matrix = (torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device) - lr * gradient).clamp_min(0)
    total = matrix.sum(0)
    return matrix / torch.where(total == 0, torch.ones_like(total), total)


class WarmUp(NoisyTraining):
    """Cross-entropy whose best weights by `val/acc`, where something is validated on, are what is tested and left."""

    monitor: str | None = "val/acc"
    monitor_mode = "max"

    def prepare(self, data: Any) -> None:
        super().prepare(data)
        if data.val_parts in ([], ["train"]):
            self.monitor = None


class LabelCorrection(Gated):
    """MLC (Wang et al., CVPR 2020): logits times a matrix T learn the given labels; the logits alone are evaluated.

    In every step T starts at the identity and takes one step down the loss of clean images after the virtual step.
    Metrics besides: `train/transition_kept`, mean of T's diagonal.

    Args:
        transition_lr: of T. virtual_lr: of the virtual step; as `lr`, on the sum of the losses of a batch.
        start: checkpoint of a run on plain cross-entropy to go on from; None: the network as it is.
        more: as `Gated`; the loss is cross-entropy.
    """

    def __init__(
        self,
        network: nn.Module,
        transition_lr: float = 0.11,
        virtual_lr: float = 0.001,
        start: Path | None = None,
        **more: Any,
    ) -> None:
        super().__init__(network, **more)
        self.transition_lr, self.virtual_lr = transition_lr, virtual_lr
        if start is not None:
            self.network.load_state_dict(weights_below(start, "network."))

    def training_step(self, batch: Any, index: int) -> Tensor:
        params = self.params()
        logits = self.network(batch.x)
        losses = cross_entropies(logits, batch.y)
        found = torch.autograd.grad(losses.mean(), list(params.values()), retain_graph=True)
        gradients = dict(zip(params, found, strict=True))
        more = self.open(self.gates, gradients)
        step = self.virtual_lr * len(losses)
        meta_loss, direction, term = after_step(self.network, params, gradients, self.next_clean(), step, **more)
        _, change = along(self.network, params, direction, lambda outputs: outputs, batch.x)
        matrix = corrected(transition_gradient(logits, change, batch.y), self.transition_lr)
        self.learn(meta_loss, term, self.gates, more["opened"])
        self.descend(cross_entropies(logits @ matrix, batch.y).sum())
        self.log("train/transition_kept", matrix.diagonal().mean(), on_step=False, on_epoch=True)
        return self.record(batch, logits, losses, torch.full_like(losses, 1 / len(losses), requires_grad=False))
