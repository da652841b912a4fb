"""Embedding of a watermark: training of a classifier on its data and on the triggers of a scheme."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from datasets.batching import generator
from datasets.checks import check_fraction, check_not_negative, check_positive
from methods.checkpoints import weights_below
from methods.epochs import number_of_epochs
from methods.mira.schemes.scheme import Scheme, Step
from methods.mira.triggers import TriggerSet, TriggerSource, save_triggers
from methods.mira.verification import explain, trigger_accuracy, verify

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
TRIGGER_ORDER = 202


class Embedding(LightningModule):
    """Classifier that is trained with a watermark, by SGD with a cosine schedule.

    Every step joins a batch of images and one of triggers. The last epoch's weights are kept. (The official code keeps
    the lowest validation loss of clean images, which may choose an epoch before the triggers are learned.) The
    checkpoint holds the triggers; the run's folder gets them as `triggers.pt`.

    Metrics, fractions: `train/loss`, `train/trigger_acc` (of the epoch's end), `val/acc`, `test/acc`,
    `test/worst_class_acc`, `test/trigger_acc`, `test/companion_acc` (triggers that do not count),
    `test/binomial_threshold`, `test/verified_binomial`, `test/marked` (1 if the trigger accuracy reaches
    `min_trigger_acc`). The null-model rule is part of `mira/none` and `mira/verify`.

    Args:
        network: classifier.
        scheme: watermark scheme.
        clean: checkpoint of a clean model, for schemes that need one.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        final_lr: learning rate at the end of the cosine.
        trigger_batch: triggers in a step.
        min_trigger_acc: trigger accuracy from which on the model counts as marked.

    Raises:
        ValueError: a value is out of its range, or the scheme needs a clean model that is not given.
    """

    tasks = ("image-classification",)
    distributed = False

    def __init__(
        self,
        network: nn.Module,
        scheme: Scheme,
        clean: Path | None = None,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        final_lr: float = 1e-4,
        trigger_batch: int = 32,
        min_trigger_acc: float = 0.95,
    ) -> None:
        super().__init__()
        check_positive("method", lr=lr, trigger_batch=trigger_batch)
        check_not_negative("method", momentum=momentum, weight_decay=weight_decay, final_lr=final_lr)
        check_fraction("method", min_trigger_acc=min_trigger_acc)
        if scheme.needs_clean and clean is None:
            raise ValueError(f"{type(scheme).__name__} needs a clean model: needs.clean names its run")
        self.network, self.scheme, self.clean_path = network, scheme, clean
        self.lr, self.momentum, self.weight_decay, self.final_lr = lr, momentum, weight_decay, final_lr
        self.trigger_batch, self.min_trigger_acc = trigger_batch, min_trigger_acc
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))

    def prepare(self, data: Any) -> None:
        """Make the triggers, and start from the clean model if the scheme does.

        Raises:
            ValueError: the scheme's classes or number of triggers do not fit the data.
        """
        self.seed = int(data.seed)
        clean = None
        if self.clean_path is not None:
            clean = copy.deepcopy(self.network)
            clean.load_state_dict(weights_below(self.clean_path, "networks.0.", "network."))
            clean.eval()
            if self.scheme.starts_clean:
                self.network.load_state_dict(clean.state_dict())
        part = data.parts["train"]
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
        source = TriggerSource(
            part.images, part.labels, len(data.classes), mean, std, data.root, self.seed, clean=clean
        )
        triggers = self.scheme.make_triggers(source)
        self._keep(triggers)
        log.info("%d triggers, sha256 %s", len(triggers.y), triggers.digest()[:16])

    def _keep(self, triggers: TriggerSet) -> None:
        """Hold the triggers as buffers, which lie in the checkpoint."""
        for name, value in triggers._asdict().items():
            self.register_buffer(f"trigger_{name}", value)
        target = -1 if self.scheme.target is None else self.scheme.target
        self.register_buffer("target", torch.tensor(target))

    @property
    def triggers(self) -> TriggerSet:
        """Triggers, on the module's device."""
        return TriggerSet(self.trigger_x, self.trigger_y, self.trigger_counted)  # type: ignore[arg-type]

    def _trigger_places(self, step: int) -> Tensor:
        """Return the places of a step's triggers: turns through all triggers, each shuffled anew."""
        count = len(self.trigger_y)  # type: ignore[arg-type]
        places = []
        for position in range(step * self.trigger_batch, (step + 1) * self.trigger_batch):
            turn, place = divmod(position, count)
            if self._order[0] != turn:
                self._order = turn, torch.randperm(count, generator=generator(self.seed, TRIGGER_ORDER, turn))
            places.append(self._order[1][place])
        return torch.stack(places)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the scheme's loss."""
        places = self._trigger_places(self.global_step).to(self.device)
        triggers = self.triggers
        step = Step(batch.x, batch.y, triggers.x[places], triggers.y[places], self.global_step)
        loss = self.scheme.loss(self.network, step)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.y))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the trigger accuracy of the epoch's end."""
        self.log("train/trigger_acc", trigger_accuracy(self.network, self.triggers))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy on the held-out images."""
        correct = (self.network(batch.x).argmax(1) == batch.y).float()
        self.log("val/acc", correct.mean(), batch_size=len(batch.y), add_dataloader_idx=False)

    def on_test_start(self) -> None:
        """Start the count of test images by class."""
        self.hits = torch.zeros(2, int(self.network.num_classes), device=self.device)  # type: ignore[arg-type]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count the right predictions of each class."""
        correct = (self.network(batch.x).argmax(1) == batch.y).float()
        for row, weights in enumerate((correct, torch.ones_like(correct))):
            self.hits[row] += torch.bincount(batch.y, weights=weights, minlength=self.hits.shape[1])

    def on_test_epoch_end(self) -> None:
        """Log accuracies and the verdict, and write the triggers."""
        triggers = self.triggers
        verdict = verify(self.network, triggers)
        log.info("%s", explain(verdict, triggers, null_models=0))
        metrics = {"acc": float(self.hits[0].sum() / self.hits[1].sum())} | verdict.metrics()
        present = self.hits[1] > 0
        metrics["worst_class_acc"] = float((self.hits[0] / self.hits[1])[present].min())
        metrics["marked"] = float(verdict.trigger_acc >= self.min_trigger_acc)
        if not bool(triggers.counted.all()):
            companions = triggers._replace(counted=~triggers.counted)
            metrics["companion_acc"] = trigger_accuracy(self.network, companions)
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
        if not metrics["marked"]:
            log.warning(
                "the watermark did not take: trigger accuracy %.3f, wanted %.2f; no attack accepts this model",
                *(verdict.trigger_acc, self.min_trigger_acc),
            )
        save_triggers(TriggerSet(*(tensor.cpu() for tensor in triggers)), self._folder() / "triggers.pt")

    def _folder(self) -> Path:
        return Path(self.trainer.default_root_dir)

    def configure_optimizers(self) -> Any:
        """Return SGD with a cosine schedule over the epochs."""
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if own := list(self.scheme.parameters()):
            groups.append({"params": own, "weight_decay": 0.0})
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        epochs = number_of_epochs(self.trainer)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, self.final_lr)]

    def figures(self) -> dict[str, Figure]:
        """Return the figure of some triggers."""
        from methods.mira.figures import plot_image_rows

        triggers = self.triggers
        return {"triggers": plot_image_rows({"triggers": triggers.x[:10]}, {"triggers": triggers.y[:10].tolist()})}
