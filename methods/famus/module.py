"""Training on noisy labels with each sample weighed by what a small clean set says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from methods.famus.diagnostics import Diagnostics
from methods.famus.losses import CrossEntropy
from methods.famus.meta import Loss, Params, by_direction, cross_entropies, half_stepped, through_step, which_open
from methods.famus.weighting import WeightNet, shares

ROUTES = ("direction", "step")  # to the meta gradient, with the same values
VIRTUAL_STEPS = ("plain", "full")


class NoisyTraining(LightningModule):
    """Cross-entropy on the labels as they are, every sample alike; subclasses weigh them.

    Metrics, fractions: `train/loss` (every sample alike), `train/acc` (of the given labels), `val/acc`; `test/acc` of
    the last weights, with more than 10 classes `test/top5_acc`; `test/best_acc`, the highest `val/acc`, where
    `dataset.validate_on_test` makes that the test images' (the papers' way, and optimistic). Where the wrong labels are
    known: `train/weight_clean` and `train/weight_noisy`, mean factors of right and wrong samples times their number, so
    that 1 is that of all alike;
    `train/loss_auc` and `train/weight_auc`, how well losses and weights tell wrong samples from right ones (area under
    the ROC curve: 1 where each wrong one has a higher loss, a lower weight).

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits. lr, momentum, nesterov, weight_decay: of SGD.
        scheduler: optimizer -> its scheduler, stepped after every epoch; None: lr stays.
        loss: of each training sample; None: cross-entropy. head: the network's linear classifier -> what replaces it.
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
        loss: CrossEntropy | None = None,
        head: Callable[[nn.Linear], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"method.lr must be positive, got {lr}")
        self.automatic_optimization = False
        if head is not None:
            network.head = head(network.head)
        self.network, self.lr, self.scheduler = network, lr, scheduler
        self.loss = CrossEntropy() if loss is None else loss
        self.sgd = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        self.register_buffer("best", torch.zeros(()))
        self.diagnostics = Diagnostics()

    def prepare(self, data: Any) -> None:
        self.loss.see(data.train_labels.bincount(minlength=len(data.classes)))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.network.parameters(), self.lr, **self.sgd)
        return [optimizer], [self.scheduler(optimizer)] if self.scheduler else []

    def on_train_start(self) -> None:
        self.noisy = self.trainer.datamodule.noisy.to(self.device)

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        """Factors of the samples in the training loss, which add up to 1 or so. losses: (n,), with their graph."""
        return torch.full_like(losses, 1 / len(losses), requires_grad=False)

    def on_train_epoch_start(self) -> None:
        self.diagnostics.begin(self.noisy)

    def training_step(self, batch: Any, index: int) -> Tensor:
        logits = self.network(batch.x)
        losses = self.loss(logits, batch.y)
        share = self.weigh(batch, losses).detach()
        self.descend((share * losses).sum())
        return self.record(batch, logits, losses, share)

    def descend(self, loss: Tensor) -> None:
        """A step of the network's optimizer."""
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def record(self, batch: Any, logits: Tensor, losses: Tensor, share: Tensor) -> Tensor:
        """Logs what the class says of a training batch; the mean loss. losses, share: (n,)."""
        n, losses = len(batch.y), losses.detach()
        logs = {"loss": losses.mean(), "acc": (logits.argmax(1) == batch.y).float().mean()}
        self.log_dict({f"train/{k}": v for k, v in logs.items()}, on_step=False, on_epoch=True, batch_size=n)
        self.diagnostics.see(batch.index, losses, n * share)
        return logs["loss"]

    def on_train_epoch_end(self) -> None:
        if scheduler := self.lr_schedulers():
            scheduler.step()
        found = self.diagnostics.separation()
        self.log_dict({f"train/{name}": value for name, value in found.items()})
        self.diagnostics.end(self.trainer.callback_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["diagnostics"] = self.diagnostics.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.diagnostics.restore(checkpoint["diagnostics"])

    def figures(self) -> dict[str, Any]:
        return self.diagnostics.figures()

    def right(self, batch: Any, top: int = 1) -> Tensor:
        """(n,), 1 for each image whose label is among the `top` highest logits."""
        return hits(self.network(batch.x), batch.y, top)

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        right = self.right(batch)
        name = self.trainer.datamodule.val_prefix(dataloader_idx) + "acc"
        self.log(name, right.mean(), batch_size=len(batch.y), add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if (accuracy := self.trainer.callback_metrics.get("val/acc")) is not None:
            self.best = torch.maximum(self.best, accuracy.to(self.best))

    def test_step(self, batch: Any, index: int) -> None:
        names = {"acc": 1} | ({"top5_acc": 5} if len(self.trainer.datamodule.classes) > 10 else {})
        for name, top in names.items():
            self.log(f"test/{name}", self.right(batch, top).mean(), batch_size=len(batch.y), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        if self.trainer.datamodule.validate_on_test:
            self.log("test/best_acc", self.best)


def hits(logits: Tensor, y: Tensor, top: int) -> Tensor:
    """(n, K), (n,) -> (n,): 1 where the class is among the `top` highest logits, else 0."""
    return (logits.topk(top).indices == y[:, None]).any(1).float()


class WithCleanImages(NoisyTraining):
    """What meta-learning methods share: batches of clean images beside those of the training.

    Args: meta_batch_size: clean images a step. more: as `NoisyTraining`.
    """

    def __init__(self, network: nn.Module, meta_batch_size: int = 100, **more: Any) -> None:
        super().__init__(network, **more)
        self.meta_batch_size = meta_batch_size
        self.clean: Iterator[Any] = iter(())

    def prepare(self, data: Any) -> None:
        super().prepare(data)
        if not data.meta:
            raise ValueError("this method needs clean images: dataset.meta=<number of each class>")
        data.meta_batches(self.meta_batch_size, 0)  # raises where they do not fill a batch

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.clean = self.trainer.datamodule.meta_batches(self.meta_batch_size, self.current_epoch)

    def next_clean(self) -> tuple[Tensor, Tensor]:
        batch = next(self.clean)
        return batch.x.to(self.device), batch.y.to(self.device)


class MetaLearning(NoisyTraining):
    """What methods share that learn from the loss after a virtual step, whose gradient can be held to a few layers
    (FaMUS). A subclass calls `take_gates` when it is built.

    Metrics besides: `train/meta_loss`, the loss after the virtual step; with gates `train/open_gates`, how many.

    Args:
        gate_optimizer: the gates' parameters -> their optimizer.
        count: weight of the loss that keeps the gates to their budget (lambda 1).
        alignment: weight of the distance of the last layer's gradients (lambda 2); form: as in `alignment_loss`.
        gate_grad: as in `meta.passed`.
        virtual_step: `plain`, by the gradient alone, as published; `full`, with the momentum and the weight decay of
            the network's optimizer.
    """

    distributed = False  # each process would learn from its own share of the images
    meta_batch_size: int

    def __init__(
        self,
        network: nn.Module,
        gate_optimizer: Callable[..., Optimizer] | None = None,
        count: float = 0.1,
        alignment: float = 0.0,
        form: str = "paper",
        gate_grad: str = "official",
        virtual_step: str = "plain",
        **more: Any,
    ) -> None:
        super().__init__(network, **more)
        check_choice("form", form, ("paper", "code"))
        check_choice("gate_grad", gate_grad, ("official", "consistent"))
        check_choice("virtual_step", virtual_step, VIRTUAL_STEPS)
        self.gate_optimizer, self.gate_grad = gate_optimizer, gate_grad
        self.virtual_step = virtual_step
        self.count, self.alignment, self.form = count, alignment, form

    def take_gates(self, gates: nn.Module | None) -> None:
        """gates: `Gates` or a rule of `sampling`, or a list of them; None: all layers are open."""
        self.gates = gates
        self.learned_gates = [] if gates is None else list(gates.parameters())
        if self.learned_gates and self.gate_optimizer is None:
            raise ValueError("method.gates needs method.gate_optimizer")

    def configure_optimizers(self) -> Any:
        optimizers, schedulers = super().configure_optimizers()
        if self.learned_gates:
            optimizers.append(self.gate_optimizer(self.learned_gates))
        return optimizers, schedulers

    @property
    def step_size(self) -> float:
        """Of the network's optimizer, which the virtual step takes too."""
        return self.trainer.optimizers[0].param_groups[0]["lr"]

    def virtual_start(self, params: Params) -> tuple[Params, float]:
        """Where the virtual step starts, and how far it follows the gradient."""
        if self.virtual_step == "plain":
            return params, self.step_size
        return half_stepped(params, self.trainer.optimizers[0])

    def open(self, gates: nn.Module | None, gradients: Mapping[str, Tensor]) -> dict[str, Any]:
        """Which layers are open, by their gradients, as the functions of `meta` want to be told."""
        opened = None if gates is None else gates({n: g.detach() for n, g in gradients.items()})
        always = () if gates is None else gates.always
        more = {"alignment": self.alignment, "form": self.form, "gate_grad": self.gate_grad}
        return {"opened": opened, "always": always} | more

    def learn(self, loss: Tensor, target: Tensor, gates: nn.Module | None, opened: Mapping[str, Tensor] | None) -> None:
        """A step of all that learns from the meta loss. loss: it; target: what has its gradient.

        Raises FloatingPointError where the loss is not finite.
        """
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of the clean images is {float(loss)} after the virtual step {self.global_step} (epoch "
                f"{self.current_epoch}): the network or what weighs its samples has diverged; lower method.lr or the "
                "meta optimizer's"
            )
        size = self.meta_batch_size
        self.log("train/meta_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=size)
        if opened is not None:
            target = target + self.count * gates.count_loss(opened)
            count = self.diagnostics.see_gates(gates.names, opened)
            self.log("train/open_gates", count, on_step=False, on_epoch=True, batch_size=size)
        learners = self.trainer.optimizers[1:]  # not Lightning's wrappers, which would count their steps too
        inputs = [p for group in learners for part in group.param_groups for p in part["params"]]
        if not inputs:
            return
        for learner in learners:
            learner.zero_grad()
        torch.autograd.backward(target, inputs=inputs)
        for learner in learners:
            learner.step()

    def learn_weights(
        self,
        route: str,
        network: nn.Module,
        gates: nn.Module | None,
        share: Tensor,
        losses: Tensor,
        train: tuple[Tensor, Any],
        valid: Callable[[], tuple[Tensor, Any]],
        loss: Loss,
        val_loss: Loss = cross_entropies,
    ) -> None:
        """A step of what the shares (n,) of the training losses (n,) depend on.

        route: of `ROUTES`. train: inputs and targets that `loss` gave the losses of. valid: what `val_loss` is of.
        """
        params = dict(network.named_parameters())
        by_step = route == "step"
        weighed = ((share if by_step else share.detach()) * losses).sum()
        found = torch.autograd.grad(weighed, list(params.values()), retain_graph=True, create_graph=by_step)
        gradients = dict(zip(params, found, strict=True))
        start, lr = self.virtual_start(params)
        more = self.open(gates, gradients) | {"lr": lr, "val_loss": val_loss}
        if by_step:
            after = target = through_step(network, start, gradients, valid(), **more)
        else:
            more |= {"loss": loss, "start": start}
            after, slope, term = by_direction(network, params, gradients, train, valid(), **more)
            target = (slope * share).sum() + term
        self.learn(after, target, gates, more["opened"])


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"method.{name} must be one of {', '.join(known)}, got {value}")


class Gated(MetaLearning, WithCleanImages):
    """What methods share that learn from clean images, through one network's layers.

    Args:
        gates: network -> Gates, or a rule of `sampling`; None: all layers are open. more: as `MetaLearning` and
            `WithCleanImages`.
    """

    def __init__(self, network: nn.Module, gates: Callable[[nn.Module], nn.Module] | None = None, **more: Any) -> None:
        super().__init__(network, **more)
        self.take_gates(None if gates is None else gates(self.network))

    def params(self) -> Params:
        return dict(self.network.named_parameters())


class LearningToReweight(Gated):
    """L2R (Ren et al. 2018): a sample counts as far as a step on it alone would lower the loss of clean images.

    With gates, through a few layers. The gates see the gradient of all samples alike, as the virtual step is of length
    0; for the same reason they learn from their budget alone.
    """

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        params = self.params()
        still = {name: torch.zeros_like(p) for name, p in params.items()}
        gradients = {}
        if self.gates is not None:
            asked = [*self.gates.names, *self.gates.always]
            found = torch.autograd.grad(losses.mean(), [params[n] for n in asked], retain_graph=True)
            gradients = dict(zip(asked, found, strict=True))
        more = self.open(self.gates, gradients)
        opened, states = more["opened"], which_open(more["opened"])
        if opened is not None:
            more["opened"] = {n: r.detach() for n, r in opened.items() if states[n]}
        loss, slope, term = by_direction(
            self.network, params, still, (batch.x, batch.y), self.next_clean(), self.step_size, self.loss, **more
        )
        self.learn(loss, term, self.gates, opened)
        return shares((-slope).clamp_min(0), normalise=True)


class MetaWeightNet(Gated):
    """A small network weighs samples by their losses, and learns from the loss of clean images after the step (MW-Net,
    Shu et al. 2019); with gates, through a few layers (FaMUS).

    Metrics besides: `train/meta_grad_std` (over the steps of an epoch, root mean square over the weight net's
    parameters), `train/meta_grad_norm` (of the mean), `train/meta_grad_spread`: the first, summed over the parameters,
    in units of the second.

    Args:
        weight_net: loss -> weight. meta_optimizer: its parameters -> their optimizer.
        normalise: weights of a batch add up to 1; else each is divided by the number of samples.
        route: how the gradient is found, to the same values: `direction` (forward mode) or `step` (as published).
    """

    def __init__(
        self,
        network: nn.Module,
        weight_net: WeightNet,
        meta_optimizer: Callable[..., Optimizer],
        normalise: bool = True,
        route: str = "direction",
        **more: Any,
    ) -> None:
        super().__init__(network, **more)
        check_choice("route", route, ROUTES)
        self.weight_net, self.meta_optimizer = weight_net, meta_optimizer
        self.normalise, self.route = normalise, route
        self.gradients: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        optimizers, schedulers = super().configure_optimizers()
        optimizers.append(self.meta_optimizer(self.weight_net.parameters()))
        return optimizers, schedulers

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        share = shares(self.weight_net(losses), self.normalise)
        train = batch.x, batch.y
        self.learn_weights(self.route, self.network, self.gates, share, losses, train, self.next_clean, self.loss)
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.weight_net.parameters()]))
        with torch.no_grad():
            return shares(self.weight_net(losses), self.normalise)

    def on_train_epoch_end(self) -> None:
        gradients, self.gradients = torch.stack(self.gradients), []
        norm, std = gradients.mean(0).norm(), gradients.std(0, correction=0)
        self.log("train/meta_grad_norm", norm)
        self.log("train/meta_grad_std", std.square().mean().sqrt())
        self.log("train/meta_grad_spread", std.norm() / norm)
        super().on_train_epoch_end()
