"""MentorMix (Jiang et al. 2020, arXiv 1911.09781): samples are mixed with samples that a mentor selects."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from methods.famus.mentornet import Mentor, MentorTraining
from methods.famus.meta_gradient import cross_entropies, per_sample_losses
from methods.famus.mixup import check_mixable, draw_ratios, mix_images_and_labels


def mentor_mixture(selected: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Draw partners with probability softmax(selected), and set the mixing ratios.

    A selected sample has the larger share of its mixture, another one the smaller.

    Args:
        selected: 1 or 0 for each sample, (n,).
        drawn: drawn ratios (n,) in [0, 1].

    Returns:
        Partners (n,), int64, and mixing ratios (n,).
    """
    partners = torch.multinomial(selected.softmax(0), len(selected), replacement=True)
    larger = torch.maximum(drawn, 1 - drawn)
    return partners, torch.where(selected < 0.5, 1 - larger, larger)


class MentorMix(MentorTraining):
    """MentorMix.

    train/loss and train/acc are those of the mixtures, the accuracy with respect to a sample's own label.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        mentor: mentor that selects samples.
        alpha: parameter of the distribution Beta(alpha, alpha) of the mixing ratio.
        second_reweight: let a second mentor, with an average of its own, select among the mixtures. As in the published
            code, there is no weight decay then.
        weight_decay: weight decay of convolutions and linear layers.
        **options: as in `NoisyTraining`; `loss` must be the cross-entropy.
    """

    def __init__(
        self,
        network: nn.Module,
        mentor: Mentor,
        alpha: float = 8.0,
        second_reweight: bool = False,
        weight_decay: float = 0.0002,
        **options: Any,
    ) -> None:
        super().__init__(network, 0.0 if second_reweight else weight_decay, **options)
        check_mixable(self.loss, alpha)
        self.alpha, self.mentor = alpha, mentor
        self.second_mentor = copy.deepcopy(mentor) if second_reweight else None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take a step on mixtures by the mentor's selection."""
        n, num_classes, progress = len(batch.y), self.network.head.weight.shape[0], self.progress
        with torch.no_grad():
            unmixed = per_sample_losses(self.network, dict(self.network.named_parameters()), batch.x, batch.y)
        selected = self.mentor(unmixed, progress)
        partners, ratio = mentor_mixture(selected, draw_ratios(self.alpha, n, self.device))
        x, y = mix_images_and_labels(batch.x, batch.y, partners, ratio, num_classes)
        logits = self.network(x)
        losses = cross_entropies(logits, y)
        weighted = losses if self.second_mentor is None else self.second_mentor(losses, progress) * losses
        self.update_network(weighted.mean())
        return self.log_batch(batch, logits, losses, selected / n)
