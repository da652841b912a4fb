"""Stage 1 of MIRA: recovery of samples of each class by model inversion."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_not_negative, check_positive
from methods.attacks import mode_of
from methods.mira.batchnorm_prior import BatchNormPrior
from methods.mira.losses import l2_norm, total_variation

INVERSION = 101  # keeps the random numbers of this file apart from others


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Put the network in eval mode without gradients of its parameters inside the context; restore both after it."""
    required = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    for parameter, _ in required:
        parameter.requires_grad_(False)
    try:
        with mode_of(network, False):
            yield
    finally:
        for parameter, value in required:
            parameter.requires_grad_(value)


def moments(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C, 1, 1) of a classifier's normalisation; 0 and 1 without one."""
    mean, std = network.mean, network.std
    assert isinstance(mean, Tensor)
    assert isinstance(std, Tensor)
    return (mean, std) if network.normalize else (torch.zeros_like(mean), torch.ones_like(std))


def to_images(z: Tensor) -> Tensor:
    """Map free variables to images in [0, 1]: (tanh(z) + 1) / 2."""
    return (z.tanh() + 1) / 2


@dataclass(frozen=True)
class Inversion:
    """Class-wise model inversion with priors of total variation, norm and batch norm's statistics.

    It minimises CE(f(x), c) + l2 ||x||_F / n + tv TV(x) + bn BN(x) over n images of each class by Adam, whose rate
    falls to `final_lr` along a cosine. The priors see normalised images, as in the official code. Classes are
    independent: those of one batch share a forward pass, and every loss is computed class by class, so the number of
    classes in a batch changes nothing but the last digits.

    Args:
        per_class: number of images of each class, n.
        steps: number of steps of Adam (official: 400 MNIST, 1000 CIFAR-10, 800 CIFAR-100).
        l2: weight of the norm.
        tv: weight of the total variation.
        bn: weight of batch norm's statistics (official: 0.1 CIFAR-10, 0.01 CIFAR-100).
        skip_last: number of last batch norms without a weight.
        lr: learning rate of Adam.
        betas: coefficients of Adam.
        final_lr: learning rate after the last step.
        classes_per_batch: number of classes that share a forward pass; 0: all.

    Raises:
        ValueError: a value is out of its range.
    """

    per_class: int = 250
    steps: int = 1000
    l2: float = 0.01
    tv: float = 0.03
    bn: float = 0.1
    skip_last: int = 2
    lr: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    final_lr: float = 1e-4
    classes_per_batch: int = 1

    def __post_init__(self) -> None:
        owner = "vars.inversion"
        check_positive(owner, per_class=self.per_class, steps=self.steps, lr=self.lr)
        check_not_negative(owner, l2=self.l2, tv=self.tv, bn=self.bn, skip_last=self.skip_last)
        check_not_negative(owner, classes_per_batch=self.classes_per_batch)

    def batches_of(self, classes: int) -> list[list[int]]:
        """Return the classes 0 .. classes - 1 in batches that share a forward pass."""
        return [part.tolist() for part in torch.arange(classes).split(self.classes_per_batch or classes)]

    def __call__(self, network: nn.Module, seed: int) -> Tensor:
        """Return recovered images of all classes (K, n, C, H, W) in [0, 1].

        Args:
            network: classifier, which stays as it is.
            seed: seed of the first images; class c starts from the same ones in any batch.
        """
        batches = self.batches_of(int(network.num_classes))  # type: ignore[arg-type]
        return torch.cat([self.recover(network, labels, seed) for labels in batches])

    def recover(self, network: nn.Module, labels: list[int], seed: int) -> Tensor:
        """Return recovered images of some classes (len(labels), n, C, H, W) in [0, 1]; see `__call__`."""
        # this format doubles the speed of LeNet-5 on a CPU: pooling and the first convolution's gradient
        network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with frozen(network):
            return self._descend(network, labels, seed)

    def _descend(self, network: nn.Module, labels: list[int], seed: int) -> Tensor:
        device = next(network.parameters()).device
        side, channels = int(network.image_size), int(network.in_channels)  # type: ignore[arg-type]
        shape = (self.per_class, channels, side, side)
        z = torch.cat([torch.randn(shape, generator=generator(seed, INVERSION, label)) for label in labels])
        z = z.to(device, memory_format=torch.channels_last).requires_grad_()
        targets = torch.tensor(labels, device=device).repeat_interleave(self.per_class)
        optimizer = torch.optim.Adam([z], lr=self.lr, betas=self.betas)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps, self.final_lr)
        with BatchNormPrior(network, len(labels), self.skip_last if self.bn else 10**6) as prior:
            for _ in range(self.steps):
                loss = self.loss(network, to_images(z), targets, prior)
                (z.grad,) = torch.autograd.grad(loss, z)
                optimizer.step()
                schedule.step()
        return to_images(z.detach()).unflatten(0, (len(labels), self.per_class))

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor, prior: BatchNormPrior) -> Tensor:
        """Return the sum of the losses of the classes of a batch.

        Shapes: images (K n, C, H, W) in [0, 1], targets (K n,) -> ().
        """
        mean, std = moments(network)
        normalised = ((images - mean) / std).split(self.per_class)
        loss = cross_entropy(network(images), targets, reduction="sum") / self.per_class
        priors = sum(self.l2 * l2_norm(x) + self.tv * total_variation(x) for x in normalised)
        return loss + priors + self.bn * prior.take().to(loss.device)
