"""F2AT reconstructed from its abstract: not the paper's losses, which could not be had; coefficients are ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, log_softmax
from torch.nn.modules.batchnorm import _BatchNorm

from methods.attacks import PGD
from methods.f2at.bitplanes import BitPlanes
from methods.f2at.objectives import Logs, Objective, accuracy, divergence


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norm uses the batch's statistics meanwhile, without adding them to the running ones."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


def from_uniform(logits: Tensor) -> Tensor:
    """Mean over the batch of KL(uniform || softmax(logits)): zero where nothing is told of the class. (B, C)."""
    log_p = log_softmax(logits, dim=1)
    return -log_p.mean() - torch.log(torch.tensor(float(logits.shape[1])))


class Reconstruction(Objective):
    """What the variants share: attacked images are cut into natural and perturbed patterns, which are looked at too.

    Args:
        attack: of the training. planes: the cut.
        natural, alignment, perturbed: weights of the terms; a pattern of which no term is left is not looked at, so
            that with all at 0 this is adversarial training as it is.
        perturbed_statistics: the perturbed patterns, which look like nothing else, also enter batch norm's running
            statistics.
    """

    def __init__(
        self,
        attack: PGD,
        planes: BitPlanes,
        natural: float = 1.0,
        alignment: float = 1.0,
        perturbed: float = 0.1,
        perturbed_statistics: bool = False,
    ) -> None:
        super().__init__(attack)
        for name, value in {"natural": natural, "alignment": alignment, "perturbed": perturbed}.items():
            if value < 0:
                raise ValueError(f"method.objective.{name} must not be negative, got {value}")
        self.planes, self.natural, self.alignment, self.perturbed = planes, natural, alignment, perturbed
        self.perturbed_statistics = perturbed_statistics

    def clean(self, network: nn.Module, x: Tensor) -> Tensor | None:
        """Logits of clean images, for variants that look at them."""
        return None

    def base(self, clean: Tensor | None, attacked: Tensor, y: Tensor) -> Tensor:
        """The loss without the patterns. clean, attacked: logits."""
        return cross_entropy(attacked, y)

    def of_natural(self, features: Tensor, logits: Tensor, pattern: Tensor, y: Tensor, network: nn.Module) -> Tensor:
        """The terms of the natural pattern. features, logits: of attacked images; pattern: features."""
        raise TypeError(f"{type(self).__name__} does not say what is asked of the natural pattern")

    def of_perturbed(self, features: Tensor, pattern: Tensor, network: nn.Module) -> Tensor:
        """The term of the perturbed pattern. features: of attacked images; pattern: features."""
        raise TypeError(f"{type(self).__name__} does not say what is asked of the perturbed pattern")

    def forward(self, network: nn.Module, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        natural, perturbed = self.planes(adv)
        clean = self.clean(network, x)
        features = network.features(adv)
        logits = network.head(features)
        loss = self.base(clean, logits, y)
        logs = {"adv_acc": accuracy(logits, y), "leak": self.planes.leak(x, adv)}
        if self.natural or self.alignment:
            loss = loss + self.of_natural(features, logits, network.features(natural), y, network)
        if self.perturbed:
            if self.perturbed_statistics:
                pattern = network.features(perturbed)
            else:
                with frozen_statistics(network):
                    pattern = network.features(perturbed)
            loss = loss + self.perturbed * self.of_perturbed(features, pattern, network)
        return loss, logs


class Logits(Reconstruction):
    """Variant A: the natural pattern is classified and agreed with; the perturbed one says nothing."""

    def of_natural(self, features: Tensor, logits: Tensor, pattern: Tensor, y: Tensor, network: nn.Module) -> Tensor:
        z = network.head(pattern)
        return self.natural * cross_entropy(z, y) + self.alignment * divergence(logits, z.detach())

    def of_perturbed(self, features: Tensor, pattern: Tensor, network: nn.Module) -> Tensor:
        return from_uniform(network.head(pattern))


class TradesLogits(Logits):
    """Variant B: variant A on top of TRADES. beta: weight of its divergence."""

    def __init__(self, *args, beta: float = 6.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.beta = beta

    def clean(self, network: nn.Module, x: Tensor) -> Tensor:
        return network(x)

    def base(self, clean: Tensor, attacked: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(clean, y) + self.beta * divergence(attacked, clean)


class Features(Reconstruction):
    """Variant C: attacked images' penultimate features are near the natural pattern's, unlike the other's."""

    def of_natural(self, features: Tensor, logits: Tensor, pattern: Tensor, y: Tensor, network: nn.Module) -> Tensor:
        return self.natural * (1 - cosine_similarity(features, pattern)).mean()

    def of_perturbed(self, features: Tensor, pattern: Tensor, network: nn.Module) -> Tensor:
        return cosine_similarity(features, pattern).square().mean()
