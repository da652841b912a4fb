"""Training on mixtures of images, and on the samples that a mentor picks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from methods.famus.losses import CrossEntropy
from methods.famus.meta import cross_entropies, sample_losses
from methods.famus.module import NoisyTraining
from methods.famus.targets import mixed
from methods.famus.weighting import shares


def mixtures(x: Tensor, y: Tensor, partner: Tensor, own: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) and classes (n,), each `own` (n,) parts of itself and the rest of its partner (n,).

    -> (n, C, H, W), (n, K) distributions.
    """
    labels = one_hot(y, num_classes).to(x.dtype)
    return mixed(x, own[:, None, None, None], partner), mixed(labels, own[:, None], partner)


class Mixing(NoisyTraining):
    """What mixing methods share: the network learns soft labels of mixtures; a subclass says which.

    Args: alpha: of the Beta distribution of a mixture's parts. more: as `NoisyTraining`, the loss being cross-entropy.
    """

    def __init__(self, network: nn.Module, alpha: float = 1.0, **more: Any) -> None:
        super().__init__(network, **more)
        if alpha <= 0:
            raise ValueError(f"method.alpha must be positive, got {alpha}")
        if type(self.loss) is not CrossEntropy:
            raise ValueError("method.loss must be the cross-entropy where labels are mixed")
        self.alpha = alpha

    def parts(self, count: int) -> Tensor:
        """(count,) in [0, 1], each drawn by Beta(alpha, alpha)."""
        alpha = torch.full((count,), float(self.alpha), device=self.device)
        return torch.distributions.Beta(alpha, alpha).sample()

    def mix(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Partners (n,) and parts (n,) of the samples, and their weights (n,), as they are logged."""
        raise NotImplementedError(f"{type(self).__name__} does not say what is mixed")

    def training_step(self, batch: Any, index: int) -> Tensor:
        partner, own, weights = self.mix(batch)
        x, y = mixtures(batch.x, batch.y, partner, own, self.network.head.weight.shape[0])
        logits = self.network(x)
        losses = cross_entropies(logits, y)
        self.descend(losses.mean())
        return self.record(batch, logits, losses, weights / len(weights))


class Mixup(Mixing):
    """Mixup (Zhang et al. 2018): a batch and the same batch in another order, in the same parts.

    `train/loss` and `train/acc` are those of the mixtures, the latter by a sample's own label.
    """

    def mix(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        n = len(batch.y)
        partner = torch.randperm(n, device=batch.y.device)
        return partner, self.parts(1).expand(n), torch.ones(n, device=batch.y.device)


class Mentor(nn.Module):
    """Trusts samples whose loss is below a moving average of a percentile of each batch's losses (MentorMix's v).

    percentile: of the losses, as a fraction. decay: of the average. burn_in: epochs in which all are trusted.
    """

    threshold: Tensor

    def __init__(self, percentile: float = 0.7, decay: float = 0.5, burn_in: int = 10) -> None:
        super().__init__()
        for name, value in (("percentile", percentile), ("decay", decay)):
            if not 0 <= value <= 1:
                raise ValueError(f"method.mentor.{name} must be in [0, 1], got {value}")
        self.percentile, self.decay, self.burn_in = percentile, decay, burn_in
        self.register_buffer("threshold", torch.tensor(torch.nan))

    @torch.no_grad()
    def forward(self, losses: Tensor, epoch: int) -> Tensor:
        """(n,) losses -> (n,), 1 for trusted samples, 0 for others."""
        now = losses.detach().quantile(self.percentile)
        before = torch.where(self.threshold.isnan(), now, self.threshold)
        self.threshold = self.decay * before + (1 - self.decay) * now
        return torch.ones_like(losses) if epoch < self.burn_in else (losses <= self.threshold).to(losses)


class MentorNet(NoisyTraining):
    """Self-paced training on the samples that a `Mentor` trusts; the published one is a trained network instead."""

    def __init__(self, network: nn.Module, mentor: Mentor, **more: Any) -> None:
        super().__init__(network, **more)
        self.mentor = mentor

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        return shares(self.mentor(losses, self.current_epoch), normalise=False)


class MentorMix(Mixing):
    """MentorMix (Jiang et al. 2020): samples are mixed with trusted ones; one not trusted is the smaller part.

    `train/loss` and `train/acc` are those of the mixtures, the latter by a sample's own label.
    """

    def __init__(self, network: nn.Module, mentor: Mentor, **more: Any) -> None:
        super().__init__(network, **more)
        self.mentor = mentor

    def mix(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            losses = sample_losses(self.network, dict(self.network.named_parameters()), batch.x, batch.y)
        trusted = self.mentor(losses, self.current_epoch)
        own = self.parts(len(losses))
        return *trusted_mixture(trusted, own), trusted


def trusted_mixture(trusted: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Partners, drawn with probability softmax(trusted), and own parts: the larger one of a sample that is trusted.

    trusted: (n,), 1 or 0. drawn: (n,), in [0, 1]. -> (n,) int64, (n,).
    """
    partner = torch.multinomial(trusted.softmax(0), len(trusted), replacement=True)
    larger = torch.maximum(drawn, 1 - drawn)
    return partner, torch.where(trusted < 0.5, 1 - larger, larger)
