"""Detection of the target class of a fixed-class watermark, by the smoothness of accuracy around recovered samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.batching import generator
from datasets.checks import check_fraction, check_not_negative, check_positive
from methods.mira.inversion import moments
from methods.mira.verification import predict

DETECTION = 102


@contextmanager
def perturbed(network: nn.Module, std: float, random: torch.Generator) -> Iterator[None]:
    """Add Gaussian noise to every parameter inside the context, and restore the parameters bit for bit after it."""
    parameters = list(network.parameters())
    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                noise = torch.randn(parameter.shape, generator=random)
                parameter.add_(noise.to(parameter.device, parameter.dtype), alpha=std)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)


@dataclass(frozen=True)
class Detection:
    """Detection of the target class: the one whose accuracy is smoothest, if its margin is large.

    SmoothAcc(c) is the share of recovered samples of class c that stay in it under noise on inputs and parameters. One
    draw of the parameters serves all classes. The published code prints the margin between the two highest values and
    has no threshold; `margin` is ours.

    Args:
        draws: number of draws of the parameters.
        input_std: standard deviation of the noise on normalised images (official: 1.0 MNIST, 0.5 CIFAR).
        parameter_std: standard deviation of the noise on parameters (official: 0.03 MNIST, 0.015 CIFAR).
        margin: smallest margin of a fixed-class watermark.

    Raises:
        ValueError: a value is out of its range.
    """

    draws: int = 50
    input_std: float = 0.5
    parameter_std: float = 0.015
    margin: float = 0.1

    def __post_init__(self) -> None:
        check_positive("method.attack.detection", draws=self.draws)
        check_not_negative("method.attack.detection", input_std=self.input_std, parameter_std=self.parameter_std)
        check_fraction("method.attack.detection", margin=self.margin)

    def smooth_accuracy(self, network: nn.Module, recovered: Tensor, seed: int) -> Tensor:
        """Return SmoothAcc of each class.

        Shapes: recovered (K, n, C, H, W) in [0, 1] -> (K,).
        """
        classes, per_class = recovered.shape[:2]
        _, std = moments(network)
        images, random = recovered.flatten(0, 1), generator(seed, DETECTION)
        labels = torch.arange(classes, device=images.device).repeat_interleave(per_class)
        hits = torch.zeros(len(images), device=images.device)
        for _ in range(self.draws):
            with perturbed(network, self.parameter_std, random):
                noise = torch.randn(images.shape, generator=random).to(images.device)
                hits += predict(network, images + self.input_std * std * noise) == labels
        return hits.view(classes, per_class).mean(1) / self.draws


def detect_target(smooth_acc: Tensor, margin: float) -> int | None:
    """Return the target class of a fixed-class watermark, or None if no class stands out.

    Args:
        smooth_acc: SmoothAcc of each class (K,).
        margin: smallest difference between the two highest values.
    """
    return int(smooth_acc.argmax()) if float(margin_of(smooth_acc)) >= margin else None


def margin_of(smooth_acc: Tensor) -> Tensor:
    """Return the difference between the two highest values.

    Shapes: (K,) -> ().
    """
    first, second = smooth_acc.topk(2).values
    return first - second
