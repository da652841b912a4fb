"""Removal of a watermark from a marked model by an attack. The whole run is the test stage."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from datasets.batching import generator
from datasets.checks import check_choice, check_fraction
from datasets.files import atomic_write
from methods.mira.attack_data import SETTINGS, draw_attack_data
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.null_models import load_nulls
from methods.mira.recovery import load_recovered
from methods.mira.verification import Verdict, accuracy, explain, trigger_accuracy, verify
from methods.mira.victim import check_source, load_victim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
CURVE_IMAGES = 1000  # test images of the accuracy before an attack and after each of its epochs
CURVE = 108  # keeps their draw apart from others


class Removal(LightningModule):
    """Attack on a marked model; verification before and after.

    Metrics, accuracies as fractions: `test/acc`, `test/acc_before`, `test/utility` (their quotient),
    `test/trigger_acc`, `test/trigger_acc_before`, `test/verified_binomial`, `test/verified_null`, `test/rescaled_acc`,
    `test/binomial_threshold`, `test/null_threshold`; `test/removed_binomial` and `test/removed_null`: 1 if the rule no
    longer finds the watermark and the utility is at least `min_utility`; `test/attack_seconds` (with the inversion,
    which another run may have done), `test/<number>` of the attack. Without triggers only accuracies and utility.

    The run's folder gets the attacked model as `removed.pt`, a state dict.

    Args:
        network: classifier of the marked model's architecture.
        attack: attack.
        victim: checkpoint of the marked model, from a run of `Embedding`; None: the weights come from `init_from`.
        nulls: checkpoint of the null models, or None.
        recovered: checkpoint of a run of `Recovery`, for attacks that use recovered samples.
        init_from: file of a model of one's own, whose weights the network has already; None with a `victim`.
        triggers: file of triggers of a model without such a checkpoint, or None.
        setting: data of the attacker: in_distribution, transfer or data_free.
        images: number of the attacker's images.
        transfer: builds the DataModule of the transfer setting.
        min_trigger_acc: trigger accuracy that a model must have before it is attacked.
        max_acc_loss: largest difference between the accuracies of the null models and of a marked model of the bench
            before it is attacked.
        min_utility: share of the accuracy that a successful attack keeps.

    Raises:
        ValueError: a value is out of its range, no model or two are named, or the attack needs recovered samples that
            are not given.
    """

    tasks = ("image-classification",)
    distributed = False

    def __init__(
        self,
        network: nn.Module,
        attack: RemovalAttack,
        victim: Path | None = None,
        nulls: Path | None = None,
        recovered: Path | None = None,
        init_from: Any = None,
        triggers: str | None = None,
        setting: str = "in_distribution",
        images: int = 1000,
        transfer: Any = None,
        min_trigger_acc: float = 0.95,
        max_acc_loss: float = 0.05,
        min_utility: float = 0.9,
    ) -> None:
        super().__init__()
        check_fraction("method", min_trigger_acc=min_trigger_acc, min_utility=min_utility, max_acc_loss=max_acc_loss)
        check_choice("method.setting", setting, SETTINGS)
        check_source(victim, init_from)
        if victim is not None and triggers is not None:
            raise ValueError(
                f"method.triggers={triggers} is for a model of one's own; the marked model of needs.victim has its "
                "own triggers: leave it out, or take method=mira/own_model"
            )
        if victim is None:  # at once: a file that is missing is named before clean models are trained
            self.victim = load_victim(network, None, triggers)
        if attack.uses_recovered and recovered is None:
            raise ValueError(f"{type(attack).__name__} needs recovered samples: needs.recovered names their run")
        self.network, self.attack = network, attack
        self.victim_path, self.nulls_path, self.recovered_path = victim, nulls, recovered
        self.setting, self.images, self.transfer = setting, images, transfer
        self.min_trigger_acc, self.max_acc_loss, self.min_utility = min_trigger_acc, max_acc_loss, min_utility
        self.measured: dict[str, float] = {}
        self.curves: list[dict[str, float]] = []

    def prepare(self, data: Any) -> None:
        """Load the marked model, check its mark and draw the attacker's data.

        Raises:
            ValueError: the model is of another architecture or not marked, or the attack does not fit the setting.
        """
        test = data.parts["test"]
        chosen = torch.randperm(len(test.labels), generator=generator(int(data.seed), CURVE))[:CURVE_IMAGES]
        self.test_images, self.test_labels = test.images[chosen].float() / 255, test.labels[chosen]
        if self.victim_path is not None:
            self.victim = load_victim(self.network, self.victim_path, None)
        self.attack.check(self.setting, self.victim.target, self.victim.marked)
        self.victim.check_marked(self.network, self.min_trigger_acc)
        self.attack_data = draw_attack_data(data, self.setting, self.images, int(data.seed), self.transfer)

    def _check_accuracy(self) -> None:
        """Raise ValueError if the watermark has cost more accuracy than `max_acc_loss`."""
        x, y = self.test_images.to(self.device), self.test_labels.to(self.device)
        own, *nulls = (
            accuracy(network, x, y) for network in (self.network, *load_nulls(self.nulls_path, self.network))
        )
        clean = sum(nulls) / len(nulls)
        if clean - own > self.max_acc_loss:
            raise ValueError(
                f"the marked model in {self.victim_path} has an accuracy of {own:.3f} on {len(self.test_labels)} test "
                f"images, {clean - own:.3f} below that of the clean models; method.max_acc_loss={self.max_acc_loss}"
                " is allowed. An attack on it would mean nothing: train it longer, or with a weaker watermark"
            )

    def on_test_start(self) -> None:
        """Attack the model.

        Raises:
            ValueError: the watermark has cost too much accuracy.
        """
        if self.victim.marked and self.nulls_path is not None:
            self._check_accuracy()
        # torch's inference mode of the test stage would forbid training
        with torch.inference_mode(False), torch.enable_grad():
            self._attack()

    def _attack(self) -> None:
        device, original = self.device, self.network
        data = self.attack_data.to(device)
        if self.setting == "transfer":
            data = data.labelled_by(original)
        inversion_seconds = 0.0
        if self.attack.uses_recovered and self.recovered_path is not None:
            recovered, inversion_seconds = load_recovered(self.recovered_path)
            data = replace(data, recovered=recovered.to(device))
        self.attack_data = data
        self.original = copy.deepcopy(original).eval()
        self._observe(self.original)
        started, self._watching = time.perf_counter(), 0.0
        self.attacked = self.attack(copy.deepcopy(original), data, self._observe).eval()
        seconds = time.perf_counter() - started - self._watching
        self.measured["attack_seconds"] = seconds + inversion_seconds
        self.measured |= self.attack.metrics
        self.hits = torch.zeros(3, device=device)

    def _observe(self, network: nn.Module) -> None:
        """Record accuracies for the figure of epochs; the time that this takes is not the attack's."""
        started = time.perf_counter()
        row = {"acc": accuracy(network, self.test_images.to(self.device), self.test_labels.to(self.device))}
        if self.victim.triggers is not None:
            row["trigger_acc"] = trigger_accuracy(network, self._triggers())
        self.curves.append(row)
        self._watching = getattr(self, "_watching", 0.0) + time.perf_counter() - started

    def _triggers(self) -> Any:
        assert self.victim.triggers is not None
        return type(self.victim.triggers)(*(tensor.to(self.device) for tensor in self.victim.triggers))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count the right predictions before and after the attack."""
        for row, network in enumerate((self.original, self.attacked)):
            self.hits[row] += (network(batch.x).argmax(1) == batch.y).sum()
        self.hits[2] += len(batch.y)

    def on_test_epoch_end(self) -> None:
        """Log accuracies and verdicts, and write the attacked model."""
        before, after = (float(value) for value in self.hits[:2] / self.hits[2])
        metrics = {"acc_before": before, "acc": after, "utility": after / max(before, 1e-12)} | self.measured
        if self.victim.triggers is not None:
            nulls, triggers = load_nulls(self.nulls_path, self.network), self._triggers()
            metrics["trigger_acc_before"] = trigger_accuracy(self.original, triggers)
            verdict = verify(self.attacked, triggers, nulls)
            metrics |= removal_metrics(verdict, metrics["utility"], self.min_utility)
            log.info(
                "after the attack %s; %.1f %% of the accuracy is kept, a successful attack keeps %.1f %%",
                *(explain(verdict, triggers, len(nulls)), 100 * metrics["utility"], 100 * self.min_utility),
            )
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
        with atomic_write(Path(self.trainer.default_root_dir) / "removed.pt") as temporary:
            torch.save({name: value.cpu() for name, value in self.attacked.state_dict().items()}, temporary)

    def figures(self) -> dict[str, Figure]:
        """Return figures of the attack: accuracies over its epochs, and what it has recovered."""
        from methods.mira import figures

        drawn = {}
        if len(self.curves) > 1:
            drawn["epochs"] = figures.plot_attack_epochs(self.curves)
        tensors: dict[str, Tensor] = {name: value.cpu() for name, value in self.attack.tensors.items()}
        if "smooth_acc" in tensors:
            drawn["smooth_acc"] = figures.plot_smooth_accuracy(tensors["smooth_acc"], self.victim.target)
        if "recovered" in tensors and self.victim.triggers is not None:
            drawn |= figures.recovery_figures(
                self.original.cpu(), tensors["recovered"], self.victim, self.attack_data, *self.attack.splitting
            )
        return drawn


def removal_metrics(verdict: Verdict, utility: float, min_utility: float) -> dict[str, float]:
    """Return the verdict after an attack as metrics, and whether each rule says that the watermark is removed.

    Args:
        verdict: verdict on the attacked model.
        utility: accuracy after the attack over that before.
        min_utility: smallest utility of a successful attack.
    """
    values = verdict.metrics()
    kept = utility >= min_utility
    for rule in ("binomial", "null"):
        if f"verified_{rule}" in values:
            values[f"removed_{rule}"] = float(kept and not values[f"verified_{rule}"])
    return values
