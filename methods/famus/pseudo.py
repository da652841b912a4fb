"""Training without clean images: two networks tell each other which labels to believe (DivideMix, and FaMUS on it)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softmax
from torch.optim import Optimizer

from methods.attacks import mode_of
from methods.famus.codivide import clean_posterior, divide
from methods.famus.meta import cross_entropies
from methods.famus.module import ROUTES, MetaLearning, NoisyTraining, check_choice
from methods.famus.pair import Pair
from methods.famus.targets import (
    draw_mix,
    mixed,
    prior_penalty,
    ramp,
    refined,
    semi_losses,
    sharpened,
)
from methods.famus.weighting import WeightNet, shares

log = logging.getLogger(__name__)
MOST = 0.9  # of the images may be labelled


class Turn(NamedTuple):
    """One network's part of an epoch. In the warm-up `labelled` has all images, and the rest stays empty.

    clean: (N,) the other network's posterior of each image. valid: batches of the pseudo-validation set.
    """

    steps: int
    labelled: Iterator[Any]
    unlabelled: Iterator[Any] = iter(())
    valid: Iterator[Any] = iter(())
    clean: Tensor = torch.empty(0)


class Mixture(NamedTuple):
    """x: (2m, C, H, W) images after MixUp, first m labelled; refined, guessed: (2m, K) their targets."""

    x: Tensor
    refined: Tensor
    guessed: Tensor


class DivideMix(NoisyTraining):
    """DivideMix (Li et al. 2020). An epoch trains one network after the other; each gets its images divided by the
    losses under the other, into labelled and unlabelled ones, and sees as many steps as the labelled ones fill batches.

    `dataset.batch_size` images make a step of the warm-up; later half as many labelled and half as many unlabelled
    ones do, twice augmented each. Where the division leaves less than a batch, or over 90 % of the images labelled, the
    half with the highest posterior is labelled. As published, predictions that become targets are made in train mode,
    so that batch norm's running statistics see images before MixUp too.

    Metrics, fractions, of both networks together: `train/loss`; after the warm-up `train/labelled`, how many images
    are labelled, and, where the wrong labels are known, `train/labelled_right`, how many of those have right labels.
    The others are those of `NoisyTraining`: accuracies are of the mean of both networks' logits, losses those that
    divide the images, and the posterior takes the place of the weight.

    Args:
        network: the first of the two. warmup: epochs of cross-entropy on all images before the first division.
        threshold: posterior above which a label counts as clean. temperature: of sharpening.
        alpha: of MixUp's Beta distribution. unlabelled: weight of the unlabelled loss (lambda_u), reached in 16 epochs
            after the warm-up. history: epochs over which losses are averaged before the division.
    """

    distributed = False

    def __init__(
        self,
        network: nn.Module,
        warmup: int = 10,
        threshold: float = 0.5,
        temperature: float = 0.5,
        alpha: float = 4.0,
        unlabelled: float = 25.0,
        history: int = 1,
        **more: Any,
    ) -> None:
        super().__init__(Pair(network), **more)
        for name, value in {"temperature": temperature, "alpha": alpha, "history": history}.items():
            if value <= 0:
                raise ValueError(f"method.{name} must be positive, got {value}")
        if warmup < 0 or unlabelled < 0:
            raise ValueError(f"method.warmup={warmup} and method.unlabelled={unlabelled} must not be negative")
        self.warmup, self.threshold, self.temperature = warmup, threshold, temperature
        self.alpha, self.unlabelled, self.keep = alpha, unlabelled, history
        self.turns: list[Turn] = []

    def prepare(self, data: Any) -> None:
        super().prepare(data)
        count, self.size, self.classes = len(data.train_labels), data.batch_size // 2, len(data.classes)
        if data.batch_size % 2:
            raise ValueError(f"dataset.batch_size={data.batch_size} must be even: half labelled, half not")
        if count < 2 * data.batch_size:
            raise ValueError(
                f"{count} training images are too few for dataset.batch_size={data.batch_size}: it takes twice as many"
            )
        data.steps = lambda: sum(turn.steps for turn in self.turns)
        self.register_buffer("losses", torch.zeros(2, self.keep, count))  # of the last epochs, oldest first

    def on_train_start(self) -> None:
        super().on_train_start()
        if 0 <= self.trainer.max_epochs <= self.warmup:
            log.warning("method.warmup=%d takes all epochs: no images are divided", self.warmup)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        data, epoch = self.trainer.datamodule, self.current_epoch
        if epoch < self.warmup:
            everything = torch.arange(len(data.train_labels))
            steps = len(everything) // data.batch_size
            self.turns = [
                Turn(steps, data.chosen_batches(everything, data.batch_size, 1, (epoch, which))) for which in range(2)
            ]
            return
        self.losses = torch.cat([self.losses[:, 1:], self.look()[:, None]], 1)
        seen = min(self.keep, epoch - self.warmup + 1)
        losses = self.losses[:, -seen:].mean(1)
        posteriors = torch.stack([clean_posterior(of_one) for of_one in losses]).to(losses)
        self.diagnostics.see(torch.arange(len(self.noisy)), losses.mean(0), posteriors.mean(0))
        self.turns = [self.turn(which, posteriors[1 - which]) for which in range(2)]

    @torch.no_grad()
    def look(self) -> Tensor:
        """(2, N): the cross-entropy of the given labels under each network, images not augmented."""
        with mode_of(self.network, False):
            found = [
                torch.stack([cross_entropy(one(batch.x), batch.y, reduction="none") for one in self.pair])
                for batch in self.trainer.datamodule.plain_batches()
            ]
        return torch.cat(found, 1)

    def turn(self, which: int, clean: Tensor) -> Turn:
        """The part of this epoch of one network, divided by the other's posterior (N,)."""
        data, key = self.trainer.datamodule, (self.current_epoch, which)
        most = min(int(MOST * len(clean)), len(clean) - self.size)
        chosen = divide(clean, self.threshold, self.size, most)
        found = {"labelled": chosen.float().mean()}
        if self.noisy.any():
            found["labelled_right"] = (~self.noisy[chosen]).float().mean()
        for name, value in found.items():
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, batch_size=1)
        labelled, unlabelled = (
            data.chosen_batches(places.nonzero()[:, 0].cpu(), self.size, 2, (*key, i))
            for i, places in enumerate((chosen, ~chosen))
        )
        return Turn(int(chosen.sum()) // self.size, labelled, unlabelled, self.valid(clean, (*key, 2)), clean)

    def valid(self, clean: Tensor, key: tuple[int, ...]) -> Iterator[Any]:
        """Batches of the pseudo-validation set, where the method has one."""
        return iter(())

    @property
    def pair(self) -> nn.ModuleList:
        return self.network.networks

    def training_step(self, number: int, index: int) -> Tensor:
        """number: of this step in the epoch."""
        which = int(number >= self.turns[0].steps)
        turn, network = self.turns[which], self.pair[which]
        if self.current_epoch < self.warmup:
            batch = next(turn.labelled)
            loss = self.warmup_loss(network(batch.x), batch.y)
        else:
            done = (number - which * self.turns[0].steps) / turn.steps
            weight = self.unlabelled * ramp(self.current_epoch - self.warmup + done)
            mixture = self.mixture(which, turn)
            logits = network(mixture.x)
            losses = semi_losses(logits, mixture.refined, mixture.guessed, weight)
            loss = (self.factors(which, turn, mixture, weight, logits, losses) * losses).sum()
        self.descend(loss)  # gradients of the other network are None: it stays as it is
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)
        return loss.detach()

    def warmup_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Of a batch, before the first division. logits: (n, K), y: (n,)."""
        return cross_entropy(logits, y)

    @torch.no_grad()
    def predicted(self, network: nn.Module, x: Tensor) -> Tensor:
        """(2m, ...) two views of m images -> (m, K): mean prediction."""
        return softmax(network(x), 1).view(2, -1, self.classes).mean(0)

    def believed(self, turn: Turn, batch: Any, predicted: Tensor) -> Tensor:
        """Refined labels of m images in two views: (2m, K)."""
        half = len(batch.y) // 2
        labels, clean = one_hot(batch.y[:half], self.classes), turn.clean[batch.index[:half]]
        return refined(labels, clean, predicted, self.temperature).repeat(2, 1)

    def guessed(self, which: int, x: Tensor, own: Tensor) -> Tensor:
        """Guesses of m images in two views by both networks: (2m, K). own: (m, K) of the network that is trained."""
        other = self.pair[1 - which]
        with mode_of(other, False):
            mean = (own + self.predicted(other, x)) / 2
        return sharpened(mean, self.temperature).repeat(2, 1)

    def mixture(self, which: int, turn: Turn) -> Mixture:
        """The next batch: both kinds of images in two views, all mixed up."""
        labelled, unlabelled = next(turn.labelled), next(turn.unlabelled)
        network, x = self.pair[which], torch.cat([labelled.x, unlabelled.x])
        given = self.believed(turn, labelled, self.predicted(network, labelled.x))
        own = self.predicted(network, unlabelled.x)
        guess = self.guessed(which, unlabelled.x, own)
        others = self.refined_unlabelled(turn, unlabelled, own, guess), guess
        mix = draw_mix(len(x), self.alpha, x)
        return Mixture(mixed(x, *mix), *(mixed(torch.cat([given, other]), *mix) for other in others))

    def refined_unlabelled(self, turn: Turn, batch: Any, own: Tensor, guess: Tensor) -> Tensor:
        """What stands for the labels of unlabelled images wherever refined ones are asked for: (2m, K)."""
        return guess

    def factors(
        self, which: int, turn: Turn, mixture: Mixture, weight: float, logits: Tensor, losses: Tensor
    ) -> Tensor:
        """(n + 1,): of each sample's loss and of the penalty. weight: of the unlabelled loss in this step."""
        return with_penalty(torch.full((len(logits),), 1 / len(logits), device=logits.device))


class PseudoClean(MetaLearning, DivideMix):
    """MW-Net on DivideMix: a small network for each of the two weighs samples by their losses, and learns from those
    images that the other network believes; with gates, through a few layers (FaMUS, supplement B).

    Every sample's loss under refined labels is what it is weighed by; that of an unlabelled one needs its refined label
    for that alone. Weights of a batch add up to 1.

    Metrics besides: `train/meta_loss` (of the pseudo-validation images, after the virtual step), `train/open_gates`.

    Args:
        weight_net: loss -> weight, made anew for each network. meta_optimizer: its parameters -> their optimizer.
        meta_threshold: posterior above which an image is of the pseudo-validation set. meta_batch_size: of those in a
            step, twice augmented.
        gates: as of `Gated`, made for each network. route: as of `MetaWeightNet`. more: as of `MetaLearning` and
            `DivideMix`.
    """

    def __init__(
        self,
        network: nn.Module,
        weight_net: Callable[[], WeightNet],
        meta_optimizer: Callable[..., Optimizer],
        meta_threshold: float = 0.5,
        meta_batch_size: int = 128,
        gates: Callable[[nn.Module], nn.Module] | None = None,
        route: str = "direction",
        **more: Any,
    ) -> None:
        super().__init__(network, **more)
        check_choice("route", route, ROUTES)
        self.weight_nets = nn.ModuleList(weight_net() for _ in range(2))
        self.take_gates(None if gates is None else nn.ModuleList(gates(one) for one in self.pair))
        self.meta_optimizer, self.route = meta_optimizer, route
        self.meta_threshold, self.meta_batch_size = meta_threshold, meta_batch_size

    def prepare(self, data: Any) -> None:
        super().prepare(data)
        if not 0 < 2 * self.meta_batch_size <= len(data.train_labels):
            raise ValueError(
                f"method.meta_batch_size={self.meta_batch_size} must be positive and at most half of the "
                f"{len(data.train_labels)} training images"
            )

    def configure_optimizers(self) -> Any:
        optimizers, schedulers = super().configure_optimizers()
        optimizers.append(self.meta_optimizer(self.weight_nets.parameters()))
        return optimizers, schedulers

    def valid(self, clean: Tensor, key: tuple[int, ...]) -> Iterator[Any]:
        chosen = divide(clean, self.meta_threshold, self.meta_batch_size, len(clean))
        return self.trainer.datamodule.chosen_batches(chosen.nonzero()[:, 0].cpu(), self.meta_batch_size, 2, key)

    def refined_unlabelled(self, turn: Turn, batch: Any, own: Tensor, guess: Tensor) -> Tensor:
        return self.believed(turn, batch, own)

    def believed_batch(self, which: int, turn: Turn) -> tuple[Tensor, Tensor]:
        """The next batch of the pseudo-validation set: images after MixUp, refined labels."""
        batch = next(turn.valid)
        given = self.believed(turn, batch, self.predicted(self.pair[which], batch.x))
        mix = draw_mix(len(batch.x), self.alpha, batch.x)
        return mixed(batch.x, *mix), mixed(given, *mix)

    def factors(
        self, which: int, turn: Turn, mixture: Mixture, weight: float, logits: Tensor, losses: Tensor
    ) -> Tensor:
        weight_net, gates = self.weight_nets[which], None if self.gates is None else self.gates[which]
        weighed = cross_entropies(logits, mixture.refined).detach()
        self.learn_weights(
            self.route,
            self.pair[which],
            gates,
            with_penalty(shares(weight_net(weighed), normalise=True)),
            losses,
            (mixture.x, (mixture.refined, mixture.guessed, weight)),
            lambda: self.believed_batch(which, turn),
            losses_of_training,
            losses_of_validation,
        )
        with torch.no_grad():
            return with_penalty(shares(weight_net(weighed), normalise=True))


def with_penalty(factors: Tensor) -> Tensor:
    """(n,) -> (n + 1,): and the penalty once."""
    return torch.cat([factors, factors.new_ones(1)])


def losses_of_training(logits: Tensor, targets: tuple[Tensor, Tensor, float]) -> Tensor:
    """`semi_losses`. targets: all its other arguments."""
    return semi_losses(logits, *targets)


def losses_of_validation(logits: Tensor, targets: Tensor) -> Tensor:
    """(m,): cross-entropies with soft targets, each with the penalty of the whole batch."""
    return cross_entropies(logits, targets) + prior_penalty(logits)
