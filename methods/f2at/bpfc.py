"""BPFC: bit plane feature consistency (Addepalli et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from datasets.checks import check_count, check_not_negative
from methods.architectures.classifier import Classifier
from methods.attacks import Attack
from methods.f2at.bitplanes import BitPlanes, low_planes, quantise
from methods.f2at.lr_schedules import epochs_at
from methods.f2at.objective import Logs, Objective, accuracy


class BPFC(Objective):
    """Cross-entropy on clean images plus the distance of their logits from those of coarser images; no attack.

    Args:
        k: number of low bit-planes that are removed.
        weight: weight of the squared distance of the logits.
        growth: factor on this weight at each of `growth_epochs`.
        growth_epochs: epochs at which the weight grows.
        total_epochs: length of the training that `growth_epochs` refer to; they are scaled to trainings of other
            lengths.

    Raises:
        ValueError: if k is not in 2 to 7.
    """

    def __init__(
        self,
        k: int = 5,
        weight: float = 1.0,
        growth: float = 9.0,
        growth_epochs: tuple[int, ...] = (26, 51, 76),
        total_epochs: int = 100,
    ) -> None:
        super().__init__()
        if not 2 <= k <= 7:
            raise ValueError(f"method.objective.k must lie in 2..7, got {k}")
        check_not_negative("method.objective", weight=weight, growth=growth)
        check_count("method.objective", total_epochs=total_epochs)
        self.bit_planes, self.weight, self.growth = BitPlanes(k), weight, growth
        self.growth_epochs, self.total_epochs = tuple(growth_epochs), total_epochs

    @torch.no_grad()
    def perturb(self, attack: Attack, network: Classifier, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Return images without their low bit-planes, after uniform noise; the attack is not used."""
        k = self.bit_planes.k
        noise = 2.0 ** min(k - 2, 3)
        q = quantise(x) + noise * (2 * torch.rand_like(x) - 1)
        return (q - low_planes(q, k) + 2 ** (k - 1)).clamp(0, 255) / 255

    def forward(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss and the metrics to log; see `Objective`."""
        clean, coarse = network(x), network(adv)
        now = epochs_at(progress, self.total_epochs)
        weight = self.weight * self.growth ** sum(now >= start for start in self.growth_epochs)
        distance = (clean - coarse).square().sum(1).mean()
        return cross_entropy(clean, y) + weight * distance, {"acc": accuracy(clean, y), "distance": distance.detach()}
