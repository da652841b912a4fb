"""Training on noisy labels with each sample weighed by what a small clean set says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from methods.famus.gates import Gates
from methods.famus.meta import by_direction, through_step
from methods.famus.weighting import WeightNet, shares


class NoisyTraining(LightningModule):
    """Cross-entropy on the labels as they are, every sample alike; subclasses weigh them.

    Metrics, fractions: `train/loss` (every sample alike), `train/acc` (of the given labels), `val/acc`; `test/acc` of
    the last weights; `test/best_acc`, the highest `val/acc`, where `dataset.validate_on_test` makes that the test
    images' (the papers' way, and optimistic). Where the wrong labels are known: `train/weight_clean` and
    `train/weight_noisy`, mean factors of right and wrong samples times their number, so that 1 is that of all alike.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits. lr, momentum, nesterov, weight_decay: of SGD.
        scheduler: optimizer -> its scheduler, stepped after every epoch; None: lr stays.
    """

    tasks = ("image-classification",)
    best: Tensor

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.05,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 5e-4,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"method.lr must be positive, got {lr}")
        self.automatic_optimization = False
        self.network, self.lr, self.scheduler = network, lr, scheduler
        self.sgd = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        self.register_buffer("best", torch.zeros(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.network.parameters(), self.lr, **self.sgd)
        return [optimizer], [self.scheduler(optimizer)] if self.scheduler else []

    def on_train_start(self) -> None:
        self.noisy = self.trainer.datamodule.noisy.to(self.device)

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        """Factors of the samples in the training loss, which add up to 1 or so. losses: (n,), with their graph."""
        return torch.full_like(losses, 1 / len(losses), requires_grad=False)

    def training_step(self, batch: Any, index: int) -> Tensor:
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        logits = self.network(batch.x)
        losses = cross_entropy(logits, batch.y, reduction="none")
        share = self.weigh(batch, losses).detach()
        optimizer.zero_grad()
        self.manual_backward((share * losses).sum())
        optimizer.step()
        n = len(batch.y)
        logs = {"loss": losses.detach().mean(), "acc": (logits.argmax(1) == batch.y).float().mean()}
        self.log_dict({f"train/{k}": v for k, v in logs.items()}, on_step=False, on_epoch=True, batch_size=n)
        noisy = self.noisy[batch.index]
        for name, which in (("clean", ~noisy), ("noisy", noisy)):
            if count := int(which.sum()):
                self.log(
                    f"train/weight_{name}", n * share[which].mean(), on_step=False, on_epoch=True, batch_size=count
                )
        return logs["loss"]

    def on_train_epoch_end(self) -> None:
        if scheduler := self.lr_schedulers():
            scheduler.step()

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        right = (self.network(batch.x).argmax(1) == batch.y).float()
        name = self.trainer.datamodule.val_prefix(dataloader_idx) + "acc"
        self.log(name, right.mean(), batch_size=len(batch.y), add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if (accuracy := self.trainer.callback_metrics.get("val/acc")) is not None:
            self.best = torch.maximum(self.best, accuracy.to(self.best))

    def test_step(self, batch: Any, index: int) -> None:
        right = (self.network(batch.x).argmax(1) == batch.y).float()
        self.log("test/acc", right.mean(), batch_size=len(batch.y), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        if self.trainer.datamodule.validate_on_test:
            self.log("test/best_acc", self.best)


class WithCleanImages(NoisyTraining):
    """What meta-learning methods share: batches of clean images beside those of the training.

    Args: meta_batch_size: clean images a step. more: as `NoisyTraining`.
    """

    def __init__(self, network: nn.Module, meta_batch_size: int = 100, **more: Any) -> None:
        super().__init__(network, **more)
        self.meta_batch_size = meta_batch_size
        self.clean: Iterator[Any] = iter(())

    def prepare(self, data: Any) -> None:
        if not data.meta:
            raise ValueError("this method needs clean images: dataset.meta=<number of each class>")
        data.meta_batches(self.meta_batch_size, 0)  # raises where they do not fill a batch

    def on_train_epoch_start(self) -> None:
        self.clean = self.trainer.datamodule.meta_batches(self.meta_batch_size, self.current_epoch)

    def next_clean(self) -> tuple[Tensor, Tensor]:
        batch = next(self.clean)
        return batch.x.to(self.device), batch.y.to(self.device)


class LearningToReweight(WithCleanImages):
    """L2R (Ren et al. 2018): a sample counts as far as a step on it alone would lower the loss of clean images."""

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        params = dict(self.network.named_parameters())
        still = {name: torch.zeros_like(p) for name, p in params.items()}
        _, slope, _ = by_direction(self.network, params, still, (batch.x, batch.y), self.next_clean(), lr=1.0)
        return shares((-slope).clamp_min(0), normalise=True)


class MetaWeightNet(WithCleanImages):
    """A small network weighs samples by their losses, and learns from the loss of clean images after the step (MW-Net,
    Shu et al. 2019); with gates, through a few layers (FaMUS).

    Metrics besides: `train/meta_loss` (clean images, after the virtual step), `train/meta_grad_std` (over the steps of
    an epoch, root mean square over the weight net's parameters), `train/meta_grad_norm` (of the mean),
    `train/open_gates`.

    Args:
        weight_net: loss -> weight. meta_optimizer: its parameters -> their optimizer.
        normalise: weights of a batch add up to 1; else each is divided by the number of samples.
        gates: network -> Gates; None: all layers are open. gate_optimizer: their parameters -> their optimizer.
        count: weight of the loss that keeps the gates to their budget (lambda 1).
        alignment: weight of the distance of the last layer's gradients (lambda 2); form: as in `alignment_loss`.
        route: how the gradient is found, to the same values: `direction` (forward mode) or `step` (as published).
    """

    def __init__(
        self,
        network: nn.Module,
        weight_net: WeightNet,
        meta_optimizer: Callable[..., Optimizer],
        normalise: bool = True,
        gates: Callable[[nn.Module], Gates] | None = None,
        gate_optimizer: Callable[..., Optimizer] | None = None,
        count: float = 0.1,
        alignment: float = 0.0,
        form: str = "paper",
        route: str = "direction",
        **more: Any,
    ) -> None:
        super().__init__(network, **more)
        for name, value, known in (("route", route, ("direction", "step")), ("form", form, ("paper", "code"))):
            if value not in known:
                raise ValueError(f"method.{name} must be one of {', '.join(known)}, got {value}")
        if gates is not None and gate_optimizer is None:
            raise ValueError("method.gates needs method.gate_optimizer")
        self.weight_net, self.gates = weight_net, None if gates is None else gates(network)
        self.meta_optimizer, self.gate_optimizer = meta_optimizer, gate_optimizer
        self.normalise, self.count, self.alignment, self.form = normalise, count, alignment, form
        self.route = route
        self.gradients: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        optimizers, schedulers = super().configure_optimizers()
        optimizers.append(self.meta_optimizer(self.weight_net.parameters()))
        if self.gates is not None:
            optimizers.append(self.gate_optimizer(self.gates.parameters()))
        return optimizers, schedulers

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        actual, *learners = self.optimizers()
        params = dict(self.network.named_parameters())
        share = shares(self.weight_net(losses), self.normalise)
        found = torch.autograd.grad((share.detach() * losses).sum(), list(params.values()), retain_graph=True)
        gradients = dict(zip(params, found, strict=True))
        opened = None if self.gates is None else self.gates(gradients)
        more = {
            "lr": actual.param_groups[0]["lr"],
            "opened": opened,
            "always": () if self.gates is None else self.gates.always,
            "alignment": self.alignment,
            "form": self.form,
        }
        train, clean = (batch.x, batch.y), self.next_clean()
        if self.route == "step":
            loss = target = through_step(self.network, params, share, train, clean, **more)
        else:
            loss, slope, term = by_direction(self.network, params, gradients, train, clean, **more)
            target = (slope * share).sum() + term
        if opened is not None:
            target = target + self.count * self.gates.count_loss(opened)
            self.log("train/open_gates", sum(opened.values()).detach(), on_step=False, on_epoch=True)
        for learner in learners:
            learner.zero_grad()
        inputs = [p for group in learners for part in group.param_groups for p in part["params"]]
        torch.autograd.backward(target, inputs=inputs)
        for learner in learners:
            learner.step()
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.weight_net.parameters()]))
        self.log("train/meta_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(clean[1]))
        with torch.no_grad():
            return shares(self.weight_net(losses), self.normalise)

    def on_train_epoch_end(self) -> None:
        gradients, self.gradients = torch.stack(self.gradients), []
        self.log("train/meta_grad_norm", gradients.mean(0).norm())
        self.log("train/meta_grad_std", gradients.std(0, correction=0).square().mean().sqrt())
        super().on_train_epoch_end()
