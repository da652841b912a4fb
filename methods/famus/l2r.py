"""L2R, learning to reweight (Ren et al. 2018, arXiv 1803.09050)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from methods.famus.meta_gradient import forward_mode_meta_gradient, gate_states
from methods.famus.meta_learning import CleanImageMetaLearning
from methods.famus.sample_weights import normalized_weights


class LearningToReweight(CleanImageMetaLearning):
    """L2R: a sample's weight is how much a step on it alone would lower the loss of clean images, at least 0.

    With gates the meta gradient flows through a few layers (L2R + FaMUS). The virtual step has length 0 here. So the
    gates see the gradient of the unweighted loss, and they learn from their budget loss alone.
    """

    def sample_weights(self, batch: Any, losses: Tensor) -> Tensor:
        """Return the weights that one meta gradient gives, scaled to sum 1."""
        params = dict(self.network.named_parameters())
        no_step = {name: torch.zeros_like(p) for name, p in params.items()}
        step = self.step_settings(self.network_lr, self.gates, self._gradients_for_gates(losses))
        states = gate_states(step.gates)
        open_gates = None if step.gates is None else {n: r.detach() for n, r in step.gates.items() if states[n]}
        meta_loss, slopes, gate_term = forward_mode_meta_gradient(
            self.network,
            params,
            no_step,
            batch.x,
            lambda logits: self.loss(logits, batch.y),
            self.next_clean_batch(),
            replace(step, gates=open_gates),
        )
        self.meta_update(meta_loss, gate_term, self.gates, step.gates)
        return normalized_weights((-slopes).clamp_min(0))

    def _gradients_for_gates(self, losses: Tensor) -> dict[str, Tensor]:
        """Return the gradients of the mean loss by the layers that have a gate and the classifier's."""
        if self.gates is None:
            return {}
        params = dict(self.network.named_parameters())
        names = [*self.gates.names, *self.gates.ungated]
        grads = torch.autograd.grad(losses.mean(), [params[n] for n in names], retain_graph=True)
        return dict(zip(names, grads, strict=True))
