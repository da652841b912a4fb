"""Loop of SGD that the attacks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_not_negative, check_positive
from datasets.progress import track

Batch = TypeVar("Batch")
Observer = Callable[[nn.Module], None]


@dataclass(frozen=True)
class SGD:
    """Settings of fine-tuning by SGD. The defaults are those of the official code of MIRA.

    Args:
        lr: learning rate.
        momentum: momentum.
        weight_decay: weight decay.
        epochs: number of epochs.
        batch_size: images in a batch.
        decay: factor of the learning rate after every `decay_every` epochs.
        decay_every: number of epochs between two drops of the learning rate.

    Raises:
        ValueError: a value is out of its range.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 40
    batch_size: int = 128
    decay: float = 1.0
    decay_every: int = 1

    def __post_init__(self) -> None:
        owner = "method.attack.sgd"
        check_positive(owner, lr=self.lr, epochs=self.epochs, batch_size=self.batch_size, decay=self.decay)
        check_positive(owner, decay_every=self.decay_every)
        check_not_negative(owner, momentum=self.momentum, weight_decay=self.weight_decay)


def batch_cross_entropy(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of a batch of images and labels."""
    x, y = batch
    return cross_entropy(network(x), y)


def fine_tune(
    network: nn.Module,
    sgd: SGD,
    batches: Callable[[int], Iterable[Batch]],
    loss: Callable[[nn.Module, Batch], Tensor],
    observe: Observer,
    after_step: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Train a network in place, in train mode, and return it in eval mode.

    Parameters whose `requires_grad` is False stay as they are; batch norm's statistics follow the batches.

    Args:
        network: network to train.
        sgd: settings.
        batches: returns the batches of an epoch, by its number.
        loss: loss of a batch.
        observe: called after every epoch.
        after_step: called after every step, for instance to keep pruned weights at zero.

    Raises:
        ValueError: the loss is no longer finite.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    for epoch in track(range(sgd.epochs), "attack, epoch"):
        for group in optimizer.param_groups:
            group["lr"] = sgd.lr * sgd.decay ** (epoch // sgd.decay_every)
        network.train()
        for batch in batches(epoch):
            value = loss(network, batch)
            optimizer.zero_grad()
            value.backward()
            value = value.detach()
            optimizer.step()
            if after_step is not None:
                after_step(network)
        if not torch.isfinite(value):
            raise ValueError(f"the attack's loss is {float(value)} after epoch {epoch + 1}: choose a smaller lr")
        observe(network)
    return network.eval()
