"""Neural Cleanse (Wang et al., IEEE S&P 2019): triggers are reverse-engineered, then unlearned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_fraction, check_not_negative, check_positive
from datasets.progress import track
from methods.mira.attack_data import AttackData
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.fine_tuning_loop import SGD, Observer, batch_cross_entropy, fine_tune
from methods.mira.inversion import frozen

START, CHOOSE = 131, 132


class Trigger(NamedTuple):
    """Reverse-engineered trigger: x becomes (1 - mask) x + mask pattern, in [0, 1].

    Shapes:
        mask: (1, H, W) in [0, 1].
        pattern: (C, H, W) in [0, 1].
    """

    mask: Tensor
    pattern: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return images with the trigger.

        Shapes: (B, C, H, W) -> (B, C, H, W).
        """
        return (1 - self.mask) * x + self.mask * self.pattern


@dataclass(frozen=True)
class ReverseEngineering:
    """Search for the smallest trigger that moves all images into a class, by Adam.

    It minimises CE(f(x'), t) + weight ||mask||_1 over mask and pattern, which are sigmoids of free variables.

    Args:
        weight: weight of the mask's norm.
        lr: learning rate of Adam.
        betas: coefficients of Adam.
        epochs: passes through the images (toolbox: 4, and 8 more for suspicious classes).
        batch_size: images in a batch.
    """

    weight: float = 0.01
    lr: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    epochs: int = 12
    batch_size: int = 64

    def __post_init__(self) -> None:
        owner = "method.attack.search"
        check_positive(owner, lr=self.lr, epochs=self.epochs, batch_size=self.batch_size)
        check_not_negative(owner, weight=self.weight)

    def __call__(self, network: nn.Module, data: AttackData, target: int) -> Trigger:
        """Return the trigger of a class."""
        channels, height, width = data.images.shape[1:]
        random = generator(data.seed, START, target)
        device = data.images.device
        free_mask = torch.randn(1, height, width, generator=random).to(device).requires_grad_()
        free_pattern = torch.randn(channels, height, width, generator=random).to(device).requires_grad_()
        optimizer = torch.optim.Adam([free_mask, free_pattern], lr=self.lr, betas=self.betas)
        with frozen(network):
            for epoch in range(self.epochs):
                for x, _ in data.batches(self.batch_size, epoch):
                    trigger = Trigger(free_mask.sigmoid(), free_pattern.sigmoid())
                    labels = torch.full((len(x),), target, device=device)
                    loss = cross_entropy(network(trigger.apply(x)), labels) + self.weight * trigger.mask.sum()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        return Trigger(free_mask.detach().sigmoid(), free_pattern.detach().sigmoid())


def small_outliers(norms: Tensor, threshold: float = 2.0) -> Tensor:
    """Return which norms are outliers below the median: |norm - median| / (1.4826 MAD) above the threshold.

    Shapes: (K,) -> (K,) bool.
    """
    median = norms.quantile(0.5)
    deviation = (norms - median).abs()
    return (deviation / (1.4826 * deviation.quantile(0.5)).clamp(min=1e-12) > threshold) & (norms <= median)


class NeuralCleanse(RemovalAttack):
    """Search for a trigger of every class; those of outlier classes are unlearned.

    If no class is an outlier, the class of the smallest mask is taken, as the toolbox does. A share of the images gets
    the trigger and keeps its own label. Search and unlearning use one blend in [0, 1]; the toolbox adds mask times
    pattern in unlearning.

    Args:
        sgd: settings of unlearning (toolbox: 5 epochs).
        search: search for triggers.
        share: share of the images that get the trigger (Wang et al.: 0.2).

    Raises:
        ValueError: the share is not in [0, 1].
    """

    def __init__(self, sgd: SGD | None = None, search: ReverseEngineering | None = None, share: float = 0.2) -> None:
        super().__init__()
        check_fraction("method.attack", share=share)
        self.sgd, self.search, self.share = sgd or SGD(epochs=5), search or ReverseEngineering(), share

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the model after unlearning; see `RemovalAttack`."""
        classes = track(range(data.num_classes), "reverse-engineered triggers")
        triggers = [self.search(network, data, label) for label in classes]
        norms = torch.stack([trigger.mask.sum() for trigger in triggers])
        outliers = small_outliers(norms).nonzero()[:, 0].tolist()
        self.metrics |= {"nc_outliers": float(len(outliers)), "nc_class": float(norms.argmin())}
        chosen = [triggers[label] for label in outliers or [int(norms.argmin())]]

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            random = generator(data.seed, CHOOSE, epoch)
            for number, (x, y) in enumerate(data.batches(self.sgd.batch_size, epoch)):
                with_trigger = (torch.rand(len(y), generator=random) < self.share).to(x.device)
                triggered = chosen[number % len(chosen)].apply(x)
                yield torch.where(with_trigger.view(-1, 1, 1, 1), triggered, x), y

        return fine_tune(network, self.sgd, batches, batch_cross_entropy, observe)
