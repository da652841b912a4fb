"""F2AT reconstructed from its abstract: not the paper's losses, which were not available; coefficients are ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, log_softmax
from torch.nn.modules.batchnorm import _BatchNorm

from datasets.checks import check_not_negative
from methods.architectures.classifier import Classifier
from methods.f2at.bitplanes import BitPlanes
from methods.f2at.objective import Logs, Objective, accuracy, kl_divergence


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Keep batch norm from updating its running statistics inside the context; it still uses the batch's."""
    layers: list[Any] = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


def kl_from_uniform(logits: Tensor) -> Tensor:
    """Return the mean over the batch of KL(uniform || softmax(logits)), which is 0 for uniform predictions.

    Shapes: (B, C) -> ().
    """
    log_p = log_softmax(logits, dim=1)
    return -log_p.mean() - torch.log(torch.tensor(float(logits.shape[1])))


class Reconstruction(Objective):
    """Base class of the reconstructions: losses on the natural and the perturbed pattern of attacked images.

    With all weights at 0 it is adversarial training: a pattern whose terms have weight 0 does not pass through the
    network.

    Args:
        bit_planes: cut between natural and perturbed pattern.
        natural_weight: weight of the natural pattern's own loss.
        alignment_weight: weight of the agreement between attacked image and natural pattern.
        perturbed_weight: weight of the perturbed pattern's loss.
        perturbed_statistics: let perturbed patterns, which are far from the data, enter batch norm's running
            statistics.

    Raises:
        ValueError: if a weight is negative.
    """

    def __init__(
        self,
        bit_planes: BitPlanes,
        natural_weight: float = 1.0,
        alignment_weight: float = 1.0,
        perturbed_weight: float = 0.1,
        perturbed_statistics: bool = False,
    ) -> None:
        super().__init__()
        owner = "method.objective"
        check_not_negative(owner, natural_weight=natural_weight, alignment_weight=alignment_weight)
        check_not_negative(owner, perturbed_weight=perturbed_weight)
        self.bit_planes, self.perturbed_statistics = bit_planes, perturbed_statistics
        self.natural_weight, self.alignment_weight = natural_weight, alignment_weight
        self.perturbed_weight = perturbed_weight

    def attacked_loss(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss without the patterns, and features and logits of the attacked images.

        Shapes: x (B, C, H, W), adv (B, C, H, W), y (B,) -> (), (B, D), (B, K).
        """
        features = network.features(adv)
        logits = network.head(features)
        return cross_entropy(logits, y), features, logits

    def natural_loss(self, features: Tensor, logits: Tensor, pattern: Tensor, y: Tensor, network: Classifier) -> Tensor:
        """Return the weighted terms of the natural pattern.

        Args:
            features: features of the attacked images.
            logits: logits of the attacked images.
            pattern: features of their natural patterns.
            y: labels.
            network: network that is trained.

        Shapes: features (B, D), logits (B, K), pattern (B, D), y (B,) -> ().
        """
        raise NotImplementedError(f"{type(self).__name__} does not define natural_loss")

    def perturbed_loss(self, features: Tensor, pattern: Tensor, network: Classifier) -> Tensor:
        """Return the unweighted term of the perturbed pattern.

        Args:
            features: features of the attacked images.
            pattern: features of their perturbed patterns.
            network: network that is trained.

        Shapes: features (B, D), pattern (B, D) -> ().
        """
        raise NotImplementedError(f"{type(self).__name__} does not define perturbed_loss")

    def forward(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss and the metrics to log; see `Objective`."""
        natural, perturbed = self.bit_planes(adv)
        loss, features, logits = self.attacked_loss(network, x, adv, y)
        logs = {"adv_acc": accuracy(logits, y), "leak": self.bit_planes.leak(x, adv)}
        if self.natural_weight or self.alignment_weight:
            loss = loss + self.natural_loss(features, logits, network.features(natural), y, network)
        if self.perturbed_weight:
            if self.perturbed_statistics:
                pattern = network.features(perturbed)
            else:
                with frozen_statistics(network):
                    pattern = network.features(perturbed)
            loss = loss + self.perturbed_weight * self.perturbed_loss(features, pattern, network)
        return loss, logs


class LogitReconstruction(Reconstruction):
    """Reconstruction A: losses on logits.

    The natural pattern is classified, the attacked prediction follows the natural pattern's, and the prediction for the
    perturbed pattern is uniform.
    """

    def natural_loss(self, features: Tensor, logits: Tensor, pattern: Tensor, y: Tensor, network: Classifier) -> Tensor:
        """Return the weighted terms of the natural pattern; see `Reconstruction`."""
        z = network.head(pattern)
        return self.natural_weight * cross_entropy(z, y) + self.alignment_weight * kl_divergence(logits, z.detach())

    def perturbed_loss(self, features: Tensor, pattern: Tensor, network: Classifier) -> Tensor:
        """Return the unweighted term of the perturbed pattern; see `Reconstruction`."""
        return kl_from_uniform(network.head(pattern))


class TradesReconstruction(LogitReconstruction):
    """Reconstruction B: reconstruction A on top of TRADES.

    Args:
        *args: arguments of `Reconstruction`.
        beta: weight of TRADES' divergence.
        **kwargs: arguments of `Reconstruction`.
    """

    def __init__(self, *args: Any, beta: float = 6.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_not_negative("method.objective", beta=beta)
        self.beta = beta

    def attacked_loss(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return TRADES' loss, and features and logits of the attacked images; see `Reconstruction`."""
        clean = network(x)
        features = network.features(adv)
        logits = network.head(features)
        return cross_entropy(clean, y) + self.beta * kl_divergence(logits, network(x)), features, logits


class FeatureReconstruction(Reconstruction):
    """Reconstruction C: losses on penultimate features.

    Features of attacked images are close in direction to those of the natural pattern and orthogonal to those of the
    perturbed pattern.
    """

    def natural_loss(self, features: Tensor, logits: Tensor, pattern: Tensor, y: Tensor, network: Classifier) -> Tensor:
        """Return the weighted term of the natural pattern; see `Reconstruction`."""
        return self.natural_weight * (1 - cosine_similarity(features, pattern)).mean()

    def perturbed_loss(self, features: Tensor, pattern: Tensor, network: Classifier) -> Tensor:
        """Return the unweighted term of the perturbed pattern; see `Reconstruction`."""
        return cosine_similarity(features, pattern).square().mean()
