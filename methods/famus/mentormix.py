"""MentorMix (Jiang et al. 2020, arXiv 1911.09781): samples are mixed with samples that a mentor selects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.famus.mentornet import Mentor
from methods.famus.meta_gradient import per_sample_losses
from methods.famus.mixup import MixtureTraining


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


class MentorMix(MixtureTraining):
    """MentorMix.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        mentor: mentor that selects samples.
        **options: as in `MixtureTraining`.
    """

    def __init__(self, network: nn.Module, mentor: Mentor, **options: Any) -> None:
        super().__init__(network, **options)
        self.mentor = mentor

    def draw_mixture(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return partners and ratios by the mentor's selection, and the selection."""
        with torch.no_grad():
            losses = per_sample_losses(self.network, dict(self.network.named_parameters()), batch.x, batch.y)
        selected = self.mentor(losses, self.current_epoch)
        ratio = self.draw_ratios(len(losses))
        return *mentor_mixture(selected, ratio), selected
