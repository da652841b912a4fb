"""Train, evaluate and recalibrate a network outside of Lightning, as the stages of a pipeline do."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_choice, check_not_negative, check_positive
from datasets.progress import seconds_left
from methods.compression.files import write_state
from methods.compression.layers import device_of, weight_layers

log = logging.getLogger(__name__)
Loss = Callable[[nn.Module, Any], Tensor]
Hook = Callable[[nn.Module], None]
SCHEDULES = ("constant", "cosine", "onecycle", "step")


@dataclass(frozen=True)
class Recipe:
    """Settings of a training by SGD or Adam.

    Args:
        epochs: number of epochs; 0 trains nothing.
        lr: learning rate; with `onecycle` its peak.
        momentum: momentum of SGD.
        weight_decay: weight decay.
        schedule: constant; cosine (to 0, by step); onecycle (a linear rise over the first 30 %, then a cosine to 0);
            step (a tenth at each of `milestones`).
        milestones: shares of the training at which `step` lowers the learning rate.
        nesterov: use Nesterov's momentum.
        optimizer: sgd or adam.

    Raises:
        ValueError: a value is out of its range.
    """

    epochs: int = 10
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    milestones: Sequence[float] = (0.5, 0.75)
    nesterov: bool = False
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        check_not_negative("recipe", epochs=self.epochs, momentum=self.momentum, weight_decay=self.weight_decay)
        check_positive("recipe", lr=self.lr)
        check_choice("recipe.schedule", self.schedule, SCHEDULES)
        check_choice("recipe.optimizer", self.optimizer, ("sgd", "adam"))

    def factor(self, progress: float) -> float:
        """Return the factor of the learning rate at a share of the training in [0, 1]."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "onecycle":
            if progress < 0.3:
                return 0.04 + 0.96 * progress / 0.3
            return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))
        if self.schedule == "step":
            return 0.1 ** sum(progress >= milestone for milestone in self.milestones)
        return 1.0

    def make_optimizer(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """Return the optimizer of parameters or of groups of them."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


def classification_loss(network: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of a batch of images."""
    return cross_entropy(network(batch.x), batch.y)


def zero_masks(network: nn.Module) -> dict[str, Tensor]:
    """Return where each weight layer with exact zeros has other values: bool masks by the name of the weight.

    A pruned weight is an exact zero, and no trained weight is one by chance; so the weights themselves say what is
    pruned, through every later stage and in every file.
    """
    masks = {f"{name}.weight": layer.weight != 0 for name, layer in weight_layers(network).items()}
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


@torch.no_grad()
def apply_masks(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set weights to zero where their mask is False."""
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask)


def train(
    network: nn.Module,
    loader: Any,
    recipe: Recipe,
    *,
    loss: Loss = classification_loss,
    keep_zeros: bool = True,
    after_backward: Hook | None = None,
    after_step: Hook | None = None,
    before_epoch: Callable[[int], None] | None = None,
    parameters: Iterable[Any] | None = None,
    more_modules: Sequence[nn.Module] = (),
    label: str = "training",
    checkpoint: Path | None = None,
    every_seconds: float = 30.0,
) -> nn.Module:
    """Train a network in place and return it in eval mode.

    With `checkpoint` an interrupted training goes on after its last saved epoch.

    Args:
        network: network to train.
        loader: loader of batches with x, y and index; `set_epoch` is called with the number of the epoch.
        recipe: settings.
        loss: loss of a batch.
        keep_zeros: keep weights that are exactly zero at zero.
        after_backward: called between the gradients and the step.
        after_step: called after every step.
        before_epoch: called with the number of the epoch that begins.
        parameters: what the optimizer gets; None: all parameters with gradients of the network and `more_modules`.
        more_modules: modules that are trained beside the network, such as regressors of a distillation loss.
        label: name of the training in the log.
        checkpoint: file that holds the state of the training, see `TrainingState`.
        every_seconds: shortest time between two states.

    Raises:
        ValueError: the loss is no longer finite.
    """
    modules = [network, *more_modules]
    if parameters is None:
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = recipe.make_optimizer(parameters)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    masks = zero_masks(network) if keep_zeros else {}
    finish_step = step_function(network, optimizer, masks, after_backward, after_step)
    state = TrainingState(checkpoint, modules, [optimizer], label, every_seconds)
    done = state.load()
    report = EpochReports(label, done, recipe.epochs)
    for epoch in range(done, recipe.epochs):
        if before_epoch is not None:
            before_epoch(epoch)
        loader.set_epoch(epoch)
        for module in modules:
            module.train()
        value = train_epoch(network, loader, recipe, epoch, optimizer, loss, finish_step)
        if not math.isfinite(value):
            raise ValueError(f"{label}: the loss is {value} after epoch {epoch + 1}; choose a smaller lr")
        report(epoch + 1, f"loss {value:.4f}")
        state.save(epoch + 1, recipe.epochs)
    for module in modules:
        module.eval()
    return network


def step_function(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    masks: dict[str, Tensor],
    after_backward: Hook | None,
    after_step: Hook | None,
) -> Callable[[], None]:
    """Return the function that makes a step of the optimizer, with its hooks and masks; arguments as for `train`."""

    def finish_step() -> None:
        if after_backward is not None:
            after_backward(network)
        optimizer.step()
        if masks:
            apply_masks(network, masks)  # momentum and weight decay move pruned weights too
        if after_step is not None:
            after_step(network)

    return finish_step


def train_epoch(
    network: nn.Module,
    loader: Any,
    recipe: Recipe,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    finish_step: Callable[[], None],
) -> float:
    """Train one epoch and return the loss of its last batch.

    Args:
        network: network.
        loader: loader of batches.
        recipe: settings.
        epoch: number of the epoch, from 0.
        optimizer: optimizer, whose groups have their first learning rate as `base_lr`.
        loss: loss of a batch.
        finish_step: makes the step after the gradients.
    """
    device, steps, value = device_of(network), max(len(loader), 1), torch.zeros(())
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * recipe.factor((epoch + step / steps) / recipe.epochs)
        value = loss(network, to_device(batch, device))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        finish_step()
    return float(value.detach())


class EpochReports:
    """Log lines about the epochs of a training: at most one in 30 seconds, and one about the last epoch.

    Args:
        label: name of the training in the log.
        done: number of epochs that were done before.
        epochs: number of all epochs.
    """

    every_seconds = 30.0

    def __init__(self, label: str, done: int, epochs: int) -> None:
        self.label, self.first, self.epochs = label, done, epochs
        self.started = self.printed = time.monotonic()

    def __call__(self, done: int, text: str) -> None:
        """Log that `done` epochs are done, if the time has come, with the time left and a text."""
        now, is_last = time.monotonic(), done == self.epochs
        if not is_last and now - self.printed < self.every_seconds:
            return
        self.printed = now
        left = seconds_left(self.started, done - self.first, self.epochs - self.first)
        log.info(
            "%s: epoch %d/%d%s, %s",
            self.label,
            done,
            self.epochs,
            "" if is_last else f", {left:.0f} s left",
            text,
            extra={"underway": not is_last},
        )


class TrainingState:
    """State of an unfinished training on disk.

    Args:
        path: file; None: nothing is kept.
        modules: modules that are trained.
        optimizers: their optimizers.
        label: name of the training in the log.
        every_seconds: shortest time between two states.
    """

    def __init__(
        self,
        path: Path | None,
        modules: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        label: str,
        every_seconds: float = 30.0,
    ) -> None:
        self.path, self.modules, self.optimizers, self.label = path, modules, optimizers, label
        self.every_seconds, self.saved = every_seconds, time.monotonic()

    def load(self) -> int:
        """Load the state if there is one, and return the number of epochs that are done.

        Raises:
            ValueError: it is of other networks.
        """
        if self.path is None or not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        try:
            for module, saved in zip(self.modules, state["modules"], strict=True):
                module.load_state_dict(saved)
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{self.path} holds another training; remove it, and the stage starts anew") from error
        torch.set_rng_state(state["rng"])
        log.info("%s: continues after epoch %d", self.label, state["epoch"])
        return int(state["epoch"])

    def save(self, epoch: int, epochs: int) -> None:
        """Write the state if it is due.

        The state of a finished training stays until its whole stage is done, so that a stage of several trainings
        goes on with the right one.
        """
        if self.path is None or (epoch < epochs and time.monotonic() - self.saved < self.every_seconds):
            return
        modules, optimizers = ([part.state_dict() for part in parts] for parts in (self.modules, self.optimizers))
        rng = torch.get_rng_state()
        write_state(self.path, {"epoch": epoch, "optimizers": optimizers, "modules": modules, "rng": rng})
        self.saved = time.monotonic()


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch (a named tuple of tensors) on a device."""
    return type(batch)(*(part.to(device) for part in batch))


@torch.no_grad()
def accuracy(network: nn.Module, loader: Iterable[Any]) -> float:
    """Return the share of images that a network, in eval mode, classifies right."""
    device, right, count = device_of(network), 0, 0
    network.eval()
    for batch in loader:
        logits = network(batch.x.to(device))
        right += int((logits.argmax(1) == batch.y.to(device)).sum())
        count += len(batch.y)
    return right / max(count, 1)


@torch.no_grad()
def recalibrate_batchnorm(network: nn.Module, loader: Iterable[Any], batches: int) -> None:
    """Measure the statistics of all batch normalisations anew, as plain means over some batches.

    A transformation without training leaves statistics of activations that no longer occur.

    Args:
        network: network, changed in place and left in eval mode.
        loader: loader of training batches.
        batches: number of batches; 0 changes nothing.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms or not batches:
        return
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    device = device_of(network)
    for _, batch in zip(range(batches), loader, strict=False):
        network(batch.x.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
