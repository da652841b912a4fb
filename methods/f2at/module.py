"""Training of an image classifier against attacks, and its evaluation under them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from datasets.checks import check_count, check_not_negative, check_positive
from methods.architectures.classifier import Classifier
from methods.attacks import PGD, Attack, seeded
from methods.epochs import number_of_epochs
from methods.f2at.awp import WeightPerturbation
from methods.f2at.ema import ExponentialMovingAverage
from methods.f2at.evaluation import contradictions, correct, load_trained
from methods.f2at.lr_schedules import Schedule
from methods.f2at.objective import Objective
from methods.memory_format import preferred_memory_format, to_memory_format

log = logging.getLogger(__name__)


class AdversarialTraining(LightningModule):
    """Adversarial training by SGD, validated under one attack and tested under several.

    The best weights are picked on held-out images; best and last weights are tested.

    Metrics, fractions: `train/loss`, `train/adv_acc` (on the images of the training), and what the objective logs;
    `val/acc`, `val/adv_acc` (under `val_attack`); `test/acc` and `test/<attack>_acc` of the weights that `monitor`
    picks, `test/last_acc`, `test/last_<attack>_acc` of the last ones; `test/nrr`, the harmonic mean of clean accuracy
    and accuracy under AutoAttack (`aa`), or under `cw` if not all images got AutoAttack; `test/masked`, 1 if attacks
    contradict each other (see `contradictions`), which hints at masked gradients.

    Args:
        network: a `Classifier`.
        objective: training objective.
        train_attack: attack of the training.
        val_attack: attack of the validation.
        test_attacks: attacks of the test by name; None leaves one out.
        attack_limits: number of test images, the first ones, by name of the attack; attacks without a limit get all.
        eps: radius of the threat model, for images in [0, 1]; marked in the figure of robust accuracy.
        step_size: step size of the threat model, for images in [0, 1].
        eps_curve: radii of the figure of robust accuracy, each attacked by PGD-20.
        eps_curve_images: number of test images of that figure.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        nesterov: use Nesterov's momentum.
        weight_decay: weight decay of SGD.
        lr_schedule: factor on the learning rate by training progress, evaluated before every step; None: constant.
        momentum_schedule: momentum by training progress, in place of `momentum`; None: constant.
        ema_decay: decay of the moving average of weights that is evaluated in place of the network (SEAT); None: none.
        weight_perturbation: adversarial perturbation of the weights (AWP).
        monitor: metric that picks the best weights; None tests the last ones.
        channels_last: memory layout of images and weights; None: chosen by the device, see `preferred_memory_format`.
        helper: checkpoint of a naturally trained network, for objectives that need one.

    Raises:
        ValueError: if an argument is out of its range.
    """

    tasks = ("image-classification",)
    monitor_mode = "max"

    def __init__(
        self,
        network: Classifier,
        objective: Objective,
        train_attack: Attack,
        val_attack: Attack | None = None,
        test_attacks: Mapping[str, Attack | None] | None = None,
        attack_limits: Mapping[str, int] | None = None,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        eps_curve: tuple[float, ...] = (),
        eps_curve_images: int = 500,
        lr: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 5e-4,
        lr_schedule: Schedule | None = None,
        momentum_schedule: Schedule | None = None,
        ema_decay: float | None = None,
        weight_perturbation: WeightPerturbation | None = None,
        monitor: str | None = "val/adv_acc",
        channels_last: bool | None = None,
        helper: Path | None = None,
    ) -> None:
        super().__init__()
        used = {name: attack for name, attack in (test_attacks or {}).items() if attack is not None}
        _check_arguments(lr, weight_decay, momentum, (eps, *eps_curve), set(attack_limits or {}) - set(used))
        check_count("method", eps_curve_images=eps_curve_images)
        self.network, self.objective = network, objective
        objective.prepare(network, load_trained(helper, network) if helper else None)
        self.weight_perturbation = weight_perturbation
        self.distributed = weight_perturbation is None  # each process would move its weights in its own way
        self.ema = None if ema_decay is None else ExponentialMovingAverage(network, ema_decay)
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self.lr_schedule, self.momentum_schedule = lr_schedule, momentum_schedule
        self.eps, self.step_size = eps, step_size
        self.train_attack, self.val_attack = train_attack, val_attack
        self.test_attacks, self.attack_limits = used, dict(attack_limits or {})
        self.eps_curve, self.eps_curve_images = tuple(eps_curve), eps_curve_images
        self.monitor, self.channels_last = monitor, channels_last
        self.memory_format = preferred_memory_format(torch.device("cpu"), channels_last)
        self._last_network: list[nn.Module] = []  # in a list, which keeps it out of the checkpoint
        self._test_metrics: Any = nn.ModuleDict()
        self._num_tested = 0
        self._robustness: dict[float, float] = {}
        self._examples: tuple[Tensor, Tensor] | None = None

    @property
    def eval_network(self) -> nn.Module:
        """Network that is evaluated: the moving average if there is one."""
        return self.network if self.ema is None else self.ema.network

    def prepare(self, data: Any) -> None:
        """Check that the data fits the validation and the attacks.

        Raises:
            ValueError: if it does not.
        """
        if (self.monitor or "").startswith("val/") and not data.holdout:
            raise ValueError(
                f"method.monitor={self.monitor} needs images to validate on: set dataset.holdout to their number, or "
                "method.monitor=null to test the last weights"
            )
        if self.monitor == "val/adv_acc" and self.val_attack is None:
            raise ValueError("method.monitor=val/adv_acc needs an attack to validate with: set method.val_attack")
        for attack in self.test_attacks.values():
            if hasattr(attack, "check_classes"):
                attack.check_classes(data.dims["num_classes"])

    def setup(self, stage: str) -> None:
        """Choose the memory layout by the device."""
        self.memory_format = preferred_memory_format(self.trainer.strategy.root_device, self.channels_last)
        for part in (self.network, self.objective, self.ema):
            if part is not None:
                to_memory_format(part, self.memory_format)

    def configure_optimizers(self) -> Any:
        """Return SGD with the schedule of its learning rate."""
        weights = [p for p in (*self.network.parameters(), *self.objective.parameters()) if p.requires_grad]
        optimizer = torch.optim.SGD(
            weights, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov, foreach=True
        )
        schedule = self.lr_schedule
        if schedule is None:
            return {"optimizer": optimizer}
        steps = self._num_steps()
        scheduler = LambdaLR(optimizer, lambda step: schedule(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _num_steps(self) -> float:
        return max(self.trainer.estimated_stepping_batches, 1)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Set the momentum by its schedule."""
        if self.momentum_schedule is None:
            return
        momentum = self.momentum_schedule(self.trainer.global_step / self._num_steps())
        for group in self.trainer.optimizers[0].param_groups:
            group["momentum"] = momentum

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the objective's loss on perturbed images."""
        x, y = batch.x.contiguous(memory_format=self.memory_format), batch.y
        progress = self.current_epoch / number_of_epochs(self.trainer)
        adv = self.objective.perturb(self.train_attack, self.network, x, y, progress)
        if self.weight_perturbation and self.weight_perturbation.is_active(progress):
            self.weight_perturbation.apply(self.network, lambda: self.objective(self.network, x, adv, y, progress)[0])
        loss, logs = self.objective(self.network, x, adv, y, progress)
        for name, value in {"loss": loss, **logs}.items():
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Move perturbed weights back, and average the weights if the optimizer has made a step."""
        if self.weight_perturbation:
            self.weight_perturbation.restore()
        if self.ema and self.trainer.global_step > int(self.ema.steps):
            self.ema.update(self.network)

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        """Log clean accuracy and accuracy under attack."""
        x, y = batch.x.contiguous(memory_format=self.memory_format), batch.y
        network, trainer = self.eval_network, cast(Any, self.trainer)
        prefix = trainer.datamodule.val_prefix(dataloader_idx)
        logs = {"acc": correct(network, x, y).mean()}
        if self.val_attack:
            logs["adv_acc"] = correct(network, self._attacked(self.val_attack, network, x, y, index), y).mean()
        for name, value in logs.items():
            self.log(prefix + name, value, batch_size=len(y), add_dataloader_idx=False, sync_dist=True)

    def on_fit_end(self) -> None:
        """Keep the last weights for the test."""
        self._last_network = [copy.deepcopy(self.eval_network).eval()] if self.monitor else []
        if self.trainer.world_size > 1:  # batch norm's statistics differ between processes
            for buffer in (buffer for network in self._last_network for buffer in network.buffers()):
                buffer.copy_(self.trainer.strategy.broadcast(buffer))

    def on_test_start(self) -> None:
        """Start new metrics."""
        self._num_tested, self._test_metrics = 0, nn.ModuleDict()
        for network in self._last_network:
            network.to(self.device)

    def test_step(self, batch: Any, index: int) -> None:
        """Measure clean accuracy and accuracy under each attack, of the best and of the last weights."""
        x, y = batch.x.contiguous(memory_format=self.memory_format), batch.y
        if self._examples is None:
            attack = self.val_attack or PGD(self.eps, self.step_size, 10)
            self._examples = x[:6].cpu(), self._attacked(attack, self.eval_network, x[:6], y[:6], 0).cpu()
        self._test_network("", self.eval_network, x, y, index)
        for network in self._last_network:
            self._test_network("last_", network, x, y, index)
        if n := self._remaining(self.eps_curve_images, len(y)):
            for i, eps in enumerate(self.eps_curve):
                attack = PGD(eps, eps / 8 if eps else 0.0, 20)
                adv = self._attacked(attack, self.eval_network, x[:n], y[:n], index)
                self._update_metric(f"curve_{i}", correct(self.eval_network, adv, y[:n]))
        self._num_tested += len(y)

    def _test_network(self, prefix: str, network: nn.Module, x: Tensor, y: Tensor, index: int) -> None:
        self._update_metric(f"{prefix}acc", correct(network, x, y))
        for name, attack in self.test_attacks.items():
            if n := self._remaining(self.attack_limits.get(name), len(y)):
                adv = self._attacked(attack, network, x[:n], y[:n], index)
                self._update_metric(f"{prefix}{name}_acc", correct(network, adv, y[:n]))

    def _remaining(self, limit: int | None, size: int) -> int:
        """Return how many images of a batch are among the first `limit`; each process takes its share of them."""
        return size if limit is None else max(0, min(size, limit // self.trainer.world_size - self._num_tested))

    def _attacked(self, attack: Attack, network: nn.Module, x: Tensor, y: Tensor, index: int) -> Tensor:
        """Return attacked images, the same ones whatever random numbers were drawn before."""
        with seeded(index, x.device), torch.autocast(x.device.type, enabled=False):
            return attack(network, x, y)

    def _update_metric(self, name: str, values: Tensor) -> None:
        if name not in self._test_metrics:
            self._test_metrics[name] = MeanMetric().to(self.device)
        self._test_metrics[name].update(values)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and warn if attacks contradict each other."""
        metrics = {name: metric.compute() for name, metric in self._test_metrics.items()}
        self._robustness = {eps: float(metrics.pop(f"curve_{i}")) for i, eps in enumerate(self.eps_curve)}
        num_images = self._test_metrics["acc"].weight
        on_all_images = {name for name, metric in self._test_metrics.items() if metric.weight == num_images}
        robust = next((metrics[name] for name in ("aa_acc", "cw_acc") if name in on_all_images), None)
        if robust is not None:
            metrics["nrr"] = 2 * metrics["acc"] * robust / (metrics["acc"] + robust).clamp_min(1e-12)
        warnings = contradictions({name: float(value) for name, value in metrics.items() if name in on_all_images})
        for line in warnings:
            log.warning("gradients may be masked: %s", line)
        logs = {f"test/{name}": value for name, value in metrics.items()}
        self.log_dict(logs | {"test/masked": float(bool(warnings))})

    def figures(self) -> dict[str, Any]:
        """Return figures of bit-plane patterns and of robust accuracy against eps."""
        from methods.f2at.figures import plot_eps_curve, plot_patterns

        figures: dict[str, Any] = {}
        if self._examples:
            figures["patterns"] = plot_patterns(*self._examples, self.objective.bit_planes)
        if self._robustness:
            figures["robustness"] = plot_eps_curve(self._robustness, self.eps)
        return figures


def _check_arguments(
    lr: float, weight_decay: float, momentum: float, radii: Sequence[float], unknown_limits: set[str]
) -> None:
    check_positive("method", lr=lr)
    check_not_negative("method", weight_decay=weight_decay, momentum=momentum)
    for radius in radii:
        if not 0 <= radius <= 1:
            raise ValueError(
                f"method.eps and method.eps_curve are in units of images in [0, 1], got {radius}; 8/255 is "
                f"{8 / 255:.4f}"
            )
    if unknown_limits:
        names = ", ".join(sorted(unknown_limits))
        raise ValueError(f"method.attack_limits names no attack of method.test_attacks: {names}")
