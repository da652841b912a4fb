"""WILD (Liu et al., arXiv 2008.00407): fine-tuning on occluded images with aligned features; a reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_not_negative
from methods.mira.attack_data import AttackData
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.fine_tuning_loop import SGD, Observer, fine_tune

ERASE = 121


def erase(x: Tensor, low: float, high: float, random: torch.Generator) -> Tensor:
    """Return images with one random square each replaced by noise.

    Args:
        x: images (B, C, H, W).
        low: smallest area of the square, as a share of the image.
        high: largest area.
        random: random generator.
    """
    batch, _, height, width = x.shape
    share = low + (high - low) * torch.rand(batch, generator=random)
    side = (share * height * width).sqrt().round().clamp(1, min(height, width)).long()
    top = (torch.rand(batch, generator=random) * (height - side + 1)).long()
    left = (torch.rand(batch, generator=random) * (width - side + 1)).long()
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])
    mask = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None].to(x.device)
    return torch.where(mask, torch.rand(x.shape, generator=random).to(x.device), x)


def moment_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of the means plus that of the covariances, divided by 4 D^2 (CORAL).

    Shapes: a (N, D), b (M, D) -> ().
    """
    means = (a.mean(0) - b.mean(0)).square().sum()
    covariances = (torch.cov(a.T) - torch.cov(b.T)).square().sum()
    return means + covariances / (4 * a.shape[1] ** 2)


class WILD(RemovalAttack):
    """Fine-tuning on images and occluded copies, whose features are to have the same distribution.

    A reconstruction from the abstract: random erasing imitates triggers, and means and covariances of the features are
    matched. The paper's own values were not available.

    Args:
        sgd: settings.
        area: smallest and largest area of the occlusion, as shares of the image.
        alignment: weight of the distance of features.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self, sgd: SGD | None = None, area: tuple[float, float] = (0.02, 0.33), alignment: float = 1.0
    ) -> None:
        super().__init__()
        if len(area) != 2 or not 0 <= area[0] <= area[1] <= 1:
            raise ValueError(f"method.attack.area must be two shares of an image in rising order, got {list(area)}")
        check_not_negative("method.attack", alignment=alignment)
        self.sgd, self.area, self.alignment = sgd or SGD(), area, alignment

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the fine-tuned model; see `RemovalAttack`."""
        random = generator(data.seed, ERASE)

        def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            features = network.features(torch.cat([x, erase(x, *self.area, random)]))  # type: ignore[operator]
            clean, occluded = features.split(len(y))
            fit = cross_entropy(network.head(features), y.repeat(2))  # type: ignore[operator]
            return fit + self.alignment * moment_distance(clean, occluded)

        return fine_tune(network, self.sgd, lambda epoch: data.batches(self.sgd.batch_size, epoch), loss, observe)
