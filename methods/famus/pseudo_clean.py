"""FaMUS and MW-Net without clean images ("pseudo-clean", FaMUS, supplement, algorithm 2), on top of DivideMix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.checks import check_fraction
from methods.famus.codivide import divide
from methods.famus.dividemix import DivideMix, MixedBatch, NetworkEpoch, append_one
from methods.famus.meta_gradient import WeightedBatch, cross_entropies
from methods.famus.meta_learning import MetaLearning
from methods.famus.mixup import interpolate
from methods.famus.mw_net import WeightNet
from methods.famus.sample_weights import normalized_weights
from methods.famus.semi_supervised import draw_mixup, prior_penalty, semi_supervised_losses


class PseudoClean(MetaLearning, DivideMix):
    """MW-Net on DivideMix; with gates, FaMUS. Images that the other network trusts replace the clean ones.

    Each network has a weight net, which maps a sample's loss under its refined label to its weight. The weights of a
    batch sum to 1.

    As in the published code, and unlike DivideMix: an epoch has max(labeled, unlabeled) images' worth of steps; the
    weight of the unlabeled loss rises by whole epochs; the mean squared error has guessed labels for labeled MixUp
    partners too, and the cross-entropy refined labels for unlabeled ones.

    Metrics are those of `DivideMix` and `MetaLearning`.

    Args:
        network: the first network; the second is another draw of it.
        weight_net: function that returns a new weight net.
        weight_net_optimizer: function of the weight nets' parameters that returns their optimizer.
        meta_threshold: posterior above which an image belongs to the pseudo-validation set.
        meta_batch_size: number of those images in a step; each is augmented twice.
        gates: function of a network that returns its `Gates` or `LayerRule`; None: all layers are open.
        **options: as in `MetaLearning` and `DivideMix`.
    """

    def __init__(
        self,
        network: nn.Module,
        weight_net: Callable[[], WeightNet],
        weight_net_optimizer: Callable[..., Optimizer],
        meta_threshold: float = 0.5,
        meta_batch_size: int = 128,
        gates: Callable[[nn.Module], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.weight_nets = nn.ModuleList(weight_net() for _ in range(2))
        self.set_gates(None if gates is None else nn.ModuleList(gates(one) for one in self.pair))
        self.weight_net_optimizer = weight_net_optimizer
        check_fraction("method", meta_threshold=meta_threshold)
        self.meta_threshold, self.meta_batch_size = meta_threshold, meta_batch_size

    def prepare(self, data: Any) -> None:
        """Check the size of the meta batches.

        Raises:
            ValueError: it is not positive, or more than half of the training images.
        """
        super().prepare(data)
        if not 0 < 2 * self.meta_batch_size <= len(data.train_labels):
            raise ValueError(
                f"method.meta_batch_size={self.meta_batch_size} must be positive and at most half of the "
                f"{len(data.train_labels)} training images"
            )

    def configure_optimizers(self) -> Any:
        """Return the optimizers of the networks, the gates and the weight nets, and the networks' scheduler."""
        optimizers, schedulers = super().configure_optimizers()
        optimizers.append(self.weight_net_optimizer(self.weight_nets.parameters()))
        return optimizers, schedulers

    def validation_batches(self, clean: Tensor, key: tuple[int, ...]) -> Iterator[Any]:
        """Return the batches of the pseudo-validation set."""
        selected = divide(clean, self.meta_threshold, self.meta_batch_size, len(clean))
        return self.data.chosen_batches(selected.nonzero()[:, 0].cpu(), self.meta_batch_size, 2, key)

    def steps_of(self, labeled: int, unlabeled: int) -> int:
        """Return the number of steps in which both kinds of images are seen at least once."""
        return max(labeled, unlabeled) // self.half_batch

    def ramp_epochs(self, done: float) -> float:
        """Return the number of whole epochs since the warm-up."""
        return self.current_epoch - self.warmup_epochs

    def soft_targets(self, which: int, part: NetworkEpoch, labeled: Any, unlabeled: Any) -> tuple[Tensor, Tensor]:
        """Return the refined labels of all images, by their posterior, and the guesses of both networks for all.

        Arguments and shapes as in `DivideMix.soft_targets`.
        """
        refined, guessed = [], []
        for batch in (labeled, unlabeled):
            predicted = self.predict(self.pair[which], batch.x)
            refined.append(self.refine(part, batch, predicted))
            guessed.append(self.guess(which, batch.x, predicted))
        return torch.cat(refined), torch.cat(guessed)

    def mixed_validation_batch(self, which: int) -> tuple[Tensor, Tensor]:
        """Return the next batch of the pseudo-validation set after MixUp: images, refined labels."""
        part = self.network_epochs[which]
        batch = next(part.validation)
        refined = self.refine(part, batch, self.predict(self.pair[which], batch.x))
        ratio, partners = draw_mixup(len(batch.x), self.alpha, batch.x)
        return interpolate(batch.x, ratio, partners), interpolate(refined, ratio, partners)

    def loss_factors(
        self, which: int, mixed: MixedBatch, unlabeled_weight: float, logits: Tensor, losses: Tensor
    ) -> Tensor:
        """Update the weight net by a virtual step, and return the factors (n + 1,) that it gives then."""
        weight_net, gates = self.weight_nets[which], None if self.gates is None else self.gates[which]
        refined_losses = cross_entropies(logits, mixed.refined).detach()
        weighted = WeightedBatch(
            x=mixed.x,
            targets=(mixed.refined, mixed.guessed, unlabeled_weight),
            losses=losses,
            weights=append_one(normalized_weights(weight_net(refined_losses))),
            loss=training_losses,
        )
        draw_val = partial(self.mixed_validation_batch, which)
        self.update_weight_net(self.pair[which], gates, weighted, draw_val, validation_losses)
        with torch.no_grad():
            return append_one(normalized_weights(weight_net(refined_losses)))


def training_losses(logits: Tensor, targets: tuple[Tensor, Tensor, float]) -> Tensor:
    """Return `semi_supervised_losses`, whose other arguments are the targets."""
    return semi_supervised_losses(logits, *targets)


def validation_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropies (n,) with soft targets (n, K), each plus the prior penalty of the batch."""
    return cross_entropies(logits, targets) + prior_penalty(logits)
