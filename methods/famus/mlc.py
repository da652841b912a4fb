"""MLC, meta loss correction (Wang et al., CVPR 2020): a label transition matrix learned on clean images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from datasets.checks import check_positive
from methods.checkpoints import weights_below
from methods.famus.meta_gradient import cross_entropies, jvp_at, meta_derivatives
from methods.famus.meta_learning import CleanImageMetaLearning
from methods.famus.module import NoisyTraining


def transition_gradient(logits: Tensor, change: Tensor, y: Tensor) -> Tensor:
    """Compute the gradient by T, at the identity, of the derivative of the mean cross-entropy of logits T.

    Args:
        logits: logits (n, K).
        change: derivative of the logits along a direction in parameter space, (n, K).
        y: classes (n,).

    Returns:
        Gradient (K, K).
    """
    matrix = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device).requires_grad_()
    residual = (logits.detach() @ matrix).softmax(1) - one_hot(y, logits.shape[1])
    derivative = (residual * (change.detach() @ matrix)).sum(1).mean()
    (gradient,) = torch.autograd.grad(derivative, matrix)
    return gradient


def updated_transition(gradient: Tensor, lr: float) -> Tensor:
    """Return the transition matrix after a step from the identity, clipped at 0, with columns that sum to 1.

    Args:
        gradient: gradient (K, K).
        lr: step size.

    Returns:
        Transition matrix (K, K); a column that is 0 stays 0.
    """
    matrix = (torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device) - lr * gradient).clamp_min(0)
    total = matrix.sum(0)
    return matrix / torch.where(total == 0, torch.ones_like(total), total)


class MLCWarmUp(NoisyTraining):
    """Cross-entropy training that MLC starts from. The weights that are best by val/acc are tested and kept."""

    monitor: str | None = "val/acc"
    monitor_mode = "max"

    def prepare(self, data: Any) -> None:
        """Keep the last weights where nothing is validated on."""
        super().prepare(data)
        if data.val_parts in ([], ["train"]):
            self.monitor = None


class MetaLossCorrection(CleanImageMetaLearning):
    """MLC: the product of logits and a transition matrix T learns the given labels; the logits alone are evaluated.

    In every step T starts at the identity and takes one step down the loss of clean images after a virtual step.

    Metrics besides those of `MetaLearning`:
        train/transition_diagonal: mean of the diagonal of T.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        transition_lr: step size of T.
        virtual_lr: step size of the virtual step; like `lr`, for the sum of the losses of a batch.
        pretrained: checkpoint of an `MLCWarmUp` run whose weights are loaded; None: the network as it is.
        **options: as in `CleanImageMetaLearning`; `loss` is not used, it is the cross-entropy.
    """

    def __init__(
        self,
        network: nn.Module,
        transition_lr: float = 0.11,
        virtual_lr: float = 0.001,
        pretrained: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        check_positive("method", transition_lr=transition_lr, virtual_lr=virtual_lr)
        self.transition_lr, self.virtual_lr = transition_lr, virtual_lr
        if pretrained is not None:
            self.network.load_state_dict(weights_below(pretrained, "network."))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Learn T by a virtual step, then take a step on the corrected loss."""
        params = dict(self.network.named_parameters())
        logits = self.network(batch.x)
        losses = cross_entropies(logits, batch.y)
        grads = torch.autograd.grad(losses.mean(), list(params.values()), retain_graph=True)
        gradients = dict(zip(params, grads, strict=True))
        step = self.step_settings(self.virtual_lr * len(losses), self.gates, gradients)
        meta = meta_derivatives(self.network, params, gradients, self.next_clean_batch(), step)
        _, change = jvp_at(self.network, params, meta.direction, lambda outputs: outputs, batch.x)
        matrix = updated_transition(transition_gradient(logits, change, batch.y), self.transition_lr)
        self.meta_update(meta.loss, meta.gate_term, self.gates, step.gates)
        self.update_network(cross_entropies(logits @ matrix, batch.y).sum())
        self.log("train/transition_diagonal", matrix.diagonal().mean(), on_step=False, on_epoch=True)
        return self.log_batch(batch, logits, losses, torch.full_like(losses, 1 / len(losses), requires_grad=False))
