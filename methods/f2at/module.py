"""Training of an image classifier against attacks, and its evaluation under them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from methods.attacks import PGD, mode_of, seeded
from methods.checkpoints import weights_below
from methods.f2at.averaging import MovingAverage, WeightPerturbation
from methods.f2at.objectives import Objective

log = logging.getLogger(__name__)
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class AdversarialTraining(LightningModule):
    """SGD on an objective; validated by an attack on held-out images; tested by several, with best and last weights.

    Metrics, fractions: `train/loss`, `train/adv_acc` (on the crafted images as trained), and what the objective logs;
    `val/acc`, `val/adv_acc` (under `watch`); `test/acc` and `test/<attack>_acc` of the weights that `monitor` picks,
    `test/last_acc`, `test/last_<attack>_acc` of the last ones; `test/nrr`, the harmonic mean of clean accuracy and
    that under AutoAttack (`aa`), or under `cw` where not all images got it; `test/masked` is 1 where the attacks
    contradict each other (see `contradictions`), which hints at masked gradients.

    Args:
        network: a `Classifier`. objective: what is minimised.
        lr, momentum, weight_decay: of SGD. rate: share of the training -> factor of lr, asked before every step.
        eps, step: of the threat model, which the curve over eps and the figures take; in units of images in [0, 1].
        watch: the attack of the validation. evaluation: name -> attack of the test; None leaves it out.
        images: attack's name -> how many test images it gets, the first ones; those not named get all.
        curve: eps of the figure of robust accuracy, each attacked by 20 steps; curve_images: how many test images.
        average: decay of the moving average of weights that is evaluated in place of the network (SEAT); None: none.
        perturbation: of the weights, adversarial (AWP).
        monitor: metric that picks the best weights; None: the last are tested.
        channels_last: memory format of images and weights.
        helper: checkpoint of a naturally trained network, for objectives that need one.
    """

    tasks = ("image-classification",)
    monitor_mode = "max"

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        rate: Callable[[float], float] | None = None,
        eps: float = 8 / 255,
        step: float = 2 / 255,
        watch: Attack | None = None,
        evaluation: Mapping[str, Attack | None] | None = None,
        images: Mapping[str, int] | None = None,
        curve: tuple[float, ...] = (),
        curve_images: int = 500,
        average: float | None = None,
        perturbation: WeightPerturbation | None = None,
        monitor: str | None = "val/adv_acc",
        channels_last: bool = True,
        helper: Path | None = None,
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"method.lr must be positive, got {lr}")
        if not 0 <= eps <= 1:
            raise ValueError(f"method.eps is in units of images in [0, 1], got {eps}; 8/255 is {8 / 255:.4f}")
        if weight_decay < 0:
            raise ValueError(f"method.weight_decay must not be negative, got {weight_decay}")
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.format)
        self.objective, self.perturbation, self.monitor = objective, perturbation, monitor
        objective.begin(network, weights_of(helper, network) if helper else None)
        self.distributed = perturbation is None  # each process would move its weights its own way
        self.average = None if average is None else MovingAverage(network, average)
        self.lr, self.momentum, self.weight_decay, self.rate = lr, momentum, weight_decay, rate
        self.eps, self.step, self.watch = eps, step, watch
        self.evaluation = {name: attack for name, attack in (evaluation or {}).items() if attack is not None}
        self.images = dict(images or {})
        if unknown := self.images.keys() - self.evaluation.keys():
            raise ValueError(f"method.images names no attack of method.evaluation: {', '.join(unknown)}")
        self.curve, self.curve_images = tuple(curve), curve_images
        self.last: list[nn.Module] = []  # in a list: no part of the checkpoint
        self.measured = nn.ModuleDict()
        self.seen = 0
        self.robustness: dict[float, float] = {}
        self.examples: tuple[Tensor, Tensor] | None = None

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated."""
        return self.network if self.average is None else self.average.network

    def prepare(self, data: Any) -> None:
        if (self.monitor or "").startswith("val/") and not data.holdout:
            raise ValueError(
                f"method.monitor={self.monitor} needs images to validate on: dataset.holdout=<number>, or "
                "method.monitor=null to test the last weights"
            )
        if self.monitor == "val/adv_acc" and self.watch is None:
            raise ValueError("method.monitor=val/adv_acc needs an attack to validate with: method.watch")
        for attack in self.evaluation.values():
            if hasattr(attack, "check_classes"):
                attack.check_classes(data.dims["num_classes"])

    def configure_optimizers(self) -> dict[str, Any]:
        weights = [p for p in (*self.network.parameters(), *self.objective.parameters()) if p.requires_grad]
        optimizer = torch.optim.SGD(weights, self.lr, self.momentum, weight_decay=self.weight_decay, foreach=True)
        if self.rate is None:
            return {"optimizer": optimizer}
        steps = max(self.trainer.estimated_stepping_batches, 1)
        scheduler = LambdaLR(optimizer, lambda step: self.rate(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch.x.contiguous(memory_format=self.format), batch.y
        progress = self.current_epoch / max(self.trainer.max_epochs or 1, 1)
        adv = self.objective.craft(self.network, x, y, progress)
        if self.perturbation and self.perturbation.begins(progress):
            self.perturbation.apply(self.network, lambda: self.objective(self.network, x, adv, y, progress)[0])
        loss, logs = self.objective(self.network, x, adv, y, progress)
        for name, value in {"loss": loss, **logs}.items():
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.perturbation:
            self.perturbation.restore()
        if self.average:
            self.average.update(self.network)

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        x, y = batch.x.contiguous(memory_format=self.format), batch.y
        prefix = self.trainer.datamodule.val_prefix(dataloader_idx)
        logs = {"acc": correct(self.judged, x, y).mean()}
        if self.watch:
            logs["adv_acc"] = correct(self.judged, self.attacked(self.watch, self.judged, x, y, index), y).mean()
        for name, value in logs.items():
            self.log(prefix + name, value, batch_size=len(y), add_dataloader_idx=False, sync_dist=True)

    def on_fit_end(self) -> None:
        self.last = [copy.deepcopy(self.judged).eval()] if self.monitor else []
        if self.trainer.world_size > 1:  # batch norm's statistics are each process's own
            for buffer in (buffer for network in self.last for buffer in network.buffers()):
                buffer.copy_(self.trainer.strategy.broadcast(buffer))

    def on_test_start(self) -> None:
        self.seen, self.measured = 0, nn.ModuleDict()
        for network in self.last:
            network.to(self.device)

    def test_step(self, batch: Any, index: int) -> None:
        x, y = batch.x.contiguous(memory_format=self.format), batch.y
        if self.examples is None:
            watch = self.watch or PGD(self.eps, self.step, 10)
            self.examples = x[:6].cpu(), self.attacked(watch, self.judged, x[:6], y[:6], 0).cpu()
        networks = {"": self.judged} | ({"last_": self.last[0]} if self.last else {})
        for kind, network in networks.items():
            self.enter(f"{kind}acc", correct(network, x, y))
            for name, attack in self.evaluation.items():
                n = self.take(self.images.get(name), len(y))
                if n:
                    adv = self.attacked(attack, network, x[:n], y[:n], index)
                    self.enter(f"{kind}{name}_acc", correct(network, adv, y[:n]))
        if n := self.take(self.curve_images, len(y)):
            for i, eps in enumerate(self.curve):
                attack = PGD(eps, eps / 8 if eps else 0.0, 20)
                adv = self.attacked(attack, self.judged, x[:n], y[:n], index)
                self.enter(f"curve_{i}", correct(self.judged, adv, y[:n]))
        self.seen += len(y)

    def take(self, limit: int | None, size: int) -> int:
        """How many images of this batch are still among the first `limit`, of each process its share."""
        return size if limit is None else max(0, min(size, limit // self.trainer.world_size - self.seen))

    def attacked(self, attack: Attack, network: nn.Module, x: Tensor, y: Tensor, index: int) -> Tensor:
        """Attacked images; the same whatever random numbers were drawn before."""
        with seeded(index, x.device), torch.autocast(x.device.type, enabled=False):
            return attack(network, x, y)

    def enter(self, name: str, values: Tensor) -> None:
        if name not in self.measured:
            self.measured[name] = MeanMetric().to(self.device)
        self.measured[name].update(values)

    def on_test_epoch_end(self) -> None:
        found = {name: metric.compute() for name, metric in self.measured.items()}
        self.robustness = {eps: float(found.pop(f"curve_{i}")) for i, eps in enumerate(self.curve)}
        images = self.measured["acc"].weight
        whole = {name for name, metric in self.measured.items() if metric.weight == images}
        robust = next((found[name] for name in ("aa_acc", "cw_acc") if name in whole), None)
        if robust is not None:
            found["nrr"] = 2 * found["acc"] * robust / (found["acc"] + robust).clamp_min(1e-12)
        values = {name: float(value) for name, value in found.items()}
        told = contradictions({k: v for k, v in values.items() if k in whole})
        for line in told:
            log.warning("gradients may be masked: %s", line)
        self.log_dict({f"test/{name}": value for name, value in found.items()} | {"test/masked": float(bool(told))})

    def figures(self) -> dict[str, Any]:
        from methods.f2at.figures import eps_curve, patterns

        drawn = {}
        if self.examples:
            drawn["patterns"] = patterns(*self.examples, self.objective.planes)
        if self.robustness:
            drawn["robustness"] = eps_curve(self.robustness, self.eps)
        return drawn


@torch.no_grad()
def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """1 where the network, in eval mode and float32, is right, else 0: (B,) float."""
    with mode_of(network, False), torch.autocast(x.device.type, enabled=False):
        return (network(x).argmax(1) == y).float()


def weights_of(checkpoint: Path, network: nn.Module) -> nn.Module:
    """A network like this one, with the weights that another run of this method has left: averaged, if it averages."""
    loaded = copy.deepcopy(network)
    loaded.load_state_dict(weights_below(checkpoint, "average.network.", "network."))
    return loaded.eval()


def contradictions(found: dict[str, float], slack: float = 0.01) -> list[str]:
    """What cannot be if attacks do what they should: a stronger attack that leaves more accuracy than a weaker one.

    found: metrics' names without split. slack: chance, as a fraction.
    """
    stronger = {
        "aa_acc": ("pgd20_acc", "pgd100_acc", "cw_acc", "fgsm_acc"),
        "pgd100_acc": ("pgd20_acc", "fgsm_acc"),
        "pgd20_acc": ("fgsm_acc", "acc"),
        "fgsm_acc": ("acc",),
    }
    return [
        f"{strong} {found[strong]:.3f} > {weak} {found[weak]:.3f}"
        for strong, weaker in stronger.items()
        for weak in weaker
        if strong in found and weak in found and found[strong] > found[weak] + slack
    ]
