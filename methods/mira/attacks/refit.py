"""REFIT (Chen et al., AsiaCCS 2021): fine-tuning at a large falling rate, with EWC, with unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_not_negative, check_positive
from methods.mira.attack_data import AttackData, endless_batches, fit_images
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.fine_tuning_loop import SGD, Observer, fine_tune
from methods.mira.verification import predict

FISHER, UNLABELLED = 111, 112
Pair = tuple[Tensor, Tensor]


def fisher_diagonal(network: nn.Module, x: Tensor, samples: int, seed: int) -> list[Tensor]:
    """Return the diagonal of the Fisher information of every parameter, divided by its largest value.

    Each sample's label is drawn from the model's own prediction; the network is in eval mode.

    Args:
        network: classifier.
        x: images (N, C, H, W).
        samples: number of draws of an image and a label.
        seed: seed of the draws.
    """
    network.eval()
    random = generator(seed, FISHER)
    fisher = [torch.zeros_like(parameter) for parameter in network.parameters()]
    for place in torch.randint(len(x), (samples,), generator=random).tolist():
        logits = network(x[place : place + 1])
        label = torch.multinomial(logits.detach().cpu().softmax(1), 1, generator=random)[:, 0].to(x.device)
        gradients = torch.autograd.grad(cross_entropy(logits, label), list(network.parameters()))
        for total, gradient in zip(fisher, gradients, strict=True):
            total.add_(gradient.square())
    largest = torch.stack([value.max() for value in fisher]).max().clamp(min=1e-20)
    return [value / largest for value in fisher]


class REFIT(RemovalAttack):
    """Fine-tuning at a large learning rate that falls geometrically, optionally with EWC or unlabelled images.

    EWC adds coef / 2 sum min(F, 1 / (lr coef)) (theta - theta_0)^2 with F the Fisher diagonal of the marked model. AU
    adds to each batch images of another data set, labelled by the marked model.

    Args:
        sgd: settings (authors: lr 0.05 x 0.9 an epoch, 60 epochs, batch 100; EWC: 0.15; AU: 0.1, x 0.1 every 15).
        ewc: coefficient of EWC (authors: 10); 0 disables it.
        fisher_samples: number of samples of the Fisher diagonal (authors: 10,000).
        unlabelled: builds the DataModule of AU from `root`, `seed` and `workers`; None disables AU.
        unlabelled_images: number of images of AU.
        unlabelled_batch: images of AU in a batch (authors: 50).

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        sgd: SGD | None = None,
        ewc: float = 0.0,
        fisher_samples: int = 1000,
        unlabelled: Any = None,
        unlabelled_images: int = 2000,
        unlabelled_batch: int = 50,
    ) -> None:
        super().__init__()
        check_not_negative("method.attack", ewc=ewc)
        check_positive("method.attack", fisher_samples=fisher_samples, unlabelled_batch=unlabelled_batch)
        check_positive("method.attack", unlabelled_images=unlabelled_images)
        self.sgd = sgd or SGD(lr=0.05, epochs=60, batch_size=100, decay=0.9)
        self.ewc, self.fisher_samples = ewc, fisher_samples
        self.unlabelled, self.unlabelled_images = unlabelled, unlabelled_images
        self.unlabelled_batch = unlabelled_batch

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the fine-tuned model; see `RemovalAttack`."""
        penalty = self._penalty(network, data)
        more = self._unlabelled(network, data)

        def batches(epoch: int) -> Iterator[Pair]:
            for x, y in data.batches(self.sgd.batch_size, epoch):
                if more is None:
                    yield x, y
                else:
                    other_x, other_y = next(more)
                    yield torch.cat([x, other_x]), torch.cat([y, other_y])

        def loss(network: nn.Module, batch: Pair) -> Tensor:
            return cross_entropy(network(batch[0]), batch[1]) + penalty(network)

        return fine_tune(network, self.sgd, batches, loss, observe)

    def _penalty(self, network: nn.Module, data: AttackData) -> Callable[[nn.Module], Tensor]:
        """Return EWC's penalty as a function of the network; 0 without EWC."""
        if not self.ewc:
            return lambda network: torch.zeros((), device=data.images.device)
        bound = 1 / (self.sgd.lr * self.ewc)
        fisher = [value.clamp(max=bound) for value in self._fisher(network, data)]
        start = [parameter.detach().clone() for parameter in network.parameters()]

        def penalty(network: nn.Module) -> Tensor:
            terms = zip(fisher, network.parameters(), start, strict=True)
            return self.ewc / 2 * torch.stack([(f * (p - s).square()).sum() for f, p, s in terms]).sum()

        return penalty

    def _fisher(self, network: nn.Module, data: AttackData) -> list[Tensor]:
        return fisher_diagonal(network, data.images, self.fisher_samples, data.seed)

    def _unlabelled(self, network: nn.Module, data: AttackData) -> Iterator[Pair] | None:
        """Return batches of another data set with the marked model's labels; None without AU."""
        if self.unlabelled is None:
            return None
        other = self.unlabelled(root=data.root, seed=data.seed, workers=0)
        other.prepare_data()
        other.setup()
        images = other.parts["train"].images
        if self.unlabelled_images > len(images):
            raise ValueError(
                f"method.attack.unlabelled_images={self.unlabelled_images} are more than the training part of "
                f"method.attack.unlabelled has ({len(images)})"
            )
        chosen = torch.randperm(len(images), generator=generator(data.seed, UNLABELLED))[: self.unlabelled_images]
        x = fit_images(images[chosen], data.images.shape[1:]).to(data.images.device)
        return endless_batches(x, predict(network, x), self.unlabelled_batch, (data.seed, UNLABELLED))
