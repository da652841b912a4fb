"""Training of click-through-rate models: plain, or with a search of interactions before it."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer

from datasets.checks import check_choice, check_not_negative, check_positive
from methods.optfeature import metrics
from methods.optfeature.evaluation import Evaluation, summarise
from methods.optfeature.export import check_export, export_pruned
from methods.optfeature.network import CTRNetwork
from methods.optfeature.optimizers import check_sparse, network_optimizers
from methods.optfeature.recovery import recovery
from methods.optfeature.selection.base import Gates, Selection
from methods.optfeature.stopping import BestWeights, training_ends

log = logging.getLogger(__name__)

SEARCH_METRICS = ("val/search_auc", "val/search_logloss")
STAGE_STATE = ("phase", "phase_epoch", "phase_step", "finished", "seconds", "rewound", "curve")  # kept in checkpoints


class CTRModule(LightningModule):
    """Adam on the mean cross-entropy; stops when validation does not improve, and tests the best epoch.

    With a selection, training has two stages. The search trains predictor and selection together. Then the selection
    is frozen and written to `selection.pt` in the folder of the run, and a predictor is retrained with it. A killed run
    goes on in the stage that it was in.

    Metrics: `train/loss`; `val/auc`, `val/logloss` (in nats) of the training or retraining; `val/search_auc`,
    `val/search_logloss` of the search; `val/kept_ratio` and `test/kept_ratio` (share of gates that are open, mean over
    rows), `val/value_level` (share of pairs that are gated value by value); `test/auc`, `test/logloss`,
    `test/normalized_entropy`, `test/ece`; `test/parameters`, `test/selection_parameters`; `time/search`, `time/retrain`
    (seconds); with planted interactions also those of `methods.optfeature.recovery`; with `export` those of
    `methods.optfeature.export`. Gates of single values (OptFS) count as open above one half.

    Args:
        network: predictor.
        lr: learning rate of Adam on the predictor.
        weight_decay: coupled L2 of Adam on the predictor.
        embedding_weight_decay: that of the embedding tables; None: as the others.
        stop_on: metric of the early stop, `auc` or `logloss`.
        patience: epochs without gain that are tolerated in each stage.
        plateau_factor: factor of the learning rate after an epoch without gain; 1: none.
        gradient_clip: largest norm of the gradient; None: any.
        selection: field_sizes -> Selection; None: the predictor is trained as it is.
        search_epochs: most epochs of the search. The epochs of the retraining are what `schedule.max_epochs` leaves.
        init_mode: weights of the predictor when the retraining begins: `init`, those before the search; `best`, those
            of the best epoch of the search; `rewind`, those of the epoch that the selection names.
        reuse_optimizer_state: let the retraining go on with the moments of Adam, as the published code does.
        export: after the test, write the predictor without closed pairs as TorchScript, and measure both.
    """

    tasks = ("ctr",)

    def __init__(
        self,
        network: CTRNetwork,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        embedding_weight_decay: float | None = None,
        stop_on: Literal["auc", "logloss"] = "auc",
        patience: int = 0,
        plateau_factor: float = 1.0,
        gradient_clip: float | None = None,
        selection: Callable[..., Selection] | None = None,
        search_epochs: int = 20,
        init_mode: Literal["init", "best", "rewind"] = "init",
        reuse_optimizer_state: bool = False,
        export: bool = False,
    ) -> None:
        super().__init__()
        check_positive("method", lr=lr, search_epochs=search_epochs, gradient_clip=gradient_clip)
        check_positive("method", plateau_factor=plateau_factor)
        check_not_negative("method", weight_decay=weight_decay, embedding_weight_decay=embedding_weight_decay)
        check_choice("method.stop_on", stop_on, ("auc", "logloss"))
        check_choice("method.init_mode", init_mode, ("init", "best", "rewind"))
        if network.sparse:
            check_sparse(gradient_clip, embedding_weight_decay)
        self.automatic_optimization = False
        self.network, self.lr, self.weight_decay = network, lr, weight_decay
        self.embedding_weight_decay = weight_decay if embedding_weight_decay is None else embedding_weight_decay
        self.stop_on, self.plateau_factor, self.gradient_clip = stop_on, plateau_factor, gradient_clip
        self.search_epochs, self.init_mode = search_epochs, init_mode
        self.reuse_optimizer_state, self.export = reuse_optimizer_state, export
        self.selection = None if selection is None else selection(field_sizes=network.field_sizes)
        if self.selection is not None:
            self.selection.check_network(network)
            if init_mode == "rewind":
                self.selection.check_rewind(search_epochs)
        if export:
            check_export(network, self.selection)
        self.phase: Literal["search", "retrain"] = "retrain"
        self.phase_epoch = self.phase_step = 0
        self.finished = self.validated = False
        self.seconds = {"search": 0.0, "retrain": 0.0}
        self.best = BestWeights(stop_on == "auc", patience)
        self.rewound: dict[str, Tensor] = {}
        self.names: list[str] = []
        self.vocabulary = ""
        self.planted: Sequence[Any] = ()
        self.evaluation = Evaluation()
        self.losses: list[Tensor] = []
        self.curve: list[dict[str, float]] = []
        self.tested: dict[str, Tensor] = {}
        self._validation: Iterator[Any] | None = None
        self._started = time.monotonic()

    def prepare(self, data: Any) -> None:
        """Take the description of the fields from the data, and begin with the first stage.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: the file `method.selection.path` does not fit the data.
        """
        self.names, self.vocabulary, self.planted = list(data.names), data.vocabulary, data.planted
        if self.selection is None:
            return
        if self.selection.path is not None:
            self.selection.load(Path(self.selection.path), self.names, self.vocabulary)
        elif self.selection.searched:
            self.selection.set_trainable(frozen=False)
            self.phase = "search"
            self.rewound = self._network_state()
        else:
            self.selection.prepare(data)
            self.selection.freeze()

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimizers of the predictor, then those of the search."""
        more = [] if self.selection is None else self.selection.retrained_parameters()
        optimizers = network_optimizers(self.network, self.lr, self.weight_decay, self.embedding_weight_decay, more)
        self._network_optimizers = len(optimizers)
        return optimizers if self.selection is None else optimizers + self.selection.optimizers()

    @property
    def distributed(self) -> bool:
        """True if several processes may share the training: not that of a selection, whose parameters are frozen."""
        return self.selection is None

    @property
    def searched(self) -> Selection:
        """Selection of a method that has one."""
        assert self.selection is not None, "this method has no selection"
        return self.selection

    # ---- training ----

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of rows, (B,).

        Args:
            ids: global ids, (B, n).
        """
        gates = Gates() if self.selection is None else self.selection.gates(ids)
        return self.network(ids, gates.pair, gates.value)

    def on_train_start(self) -> None:
        """Do not train further if a resumed run had finished.

        Raises:
            ValueError: the search may take all epochs, so that none is left for the retraining.
        """
        epochs = self.trainer.max_epochs or 0
        if self.phase == "search" and 0 < epochs <= self.search_epochs:
            raise ValueError(
                f"schedule.max_epochs={epochs} counts the epochs of search and retraining, and the search may take "
                f"method.search_epochs={self.search_epochs} of them: raise the first or lower the second"
            )
        if self.finished:
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """Start the clock, and let the selection adapt to the epoch."""
        self._started, self._validation, self.validated = time.monotonic(), None, False
        if self.phase == "search":
            if self.searched.rewind_epoch == self.phase_epoch:
                self.rewound = self._network_state()
            self.searched.begin_epoch(self.phase_epoch, self.search_epochs)
        else:
            for name in SEARCH_METRICS:  # Lightning keeps the last value of every metric
                self.trainer.callback_metrics.pop(name, None)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Make one step of all optimizers of the stage."""
        optimizers = self._raw_optimizers()
        predictor, search = optimizers[: self._network_optimizers], optimizers[self._network_optimizers :]
        if self.phase == "search":
            self.searched.begin_step(self.phase_step)
            if self.searched.alternating:
                self._step(self._next_validation(), search)
                loss = self._step(batch, predictor)
            else:
                loss = self._step(batch, predictor + search)
        else:
            loss = self._step(batch, predictor)
        self.phase_step += 1
        self.losses.append(loss)
        return {"loss": loss}

    def _step(self, batch: Any, optimizers: list[Optimizer]) -> Tensor:
        """Make a step on the loss of a batch, and return it."""
        loss = binary_cross_entropy_with_logits(self(batch.ids), batch.labels)
        total = loss + self.searched.penalty() if self.phase == "search" else loss
        self.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=False):  # Lightning runs the whole step with it
            self.manual_backward(total)
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    def on_train_epoch_end(self) -> None:
        """Log the epoch, and go to the next stage or stop where it is due.

        Raises:
            ValueError: training ends before the search does, so that nothing is retrained.
        """
        self.log("train/loss", torch.stack(self.losses).mean(), sync_dist=True)
        self.losses.clear()
        self.seconds[self.phase] += time.monotonic() - self._started
        self.phase_epoch += 1
        if self.phase == "retrain":
            self._end_training_epoch()
            return
        self._end_search_epoch()
        if training_ends(self.trainer):
            raise ValueError(
                f"training ends after epoch {self.current_epoch + 1}, with the search, and no predictor was retrained: "
                "look at max_steps, max_time and callbacks that stop the training"
            )

    def _end_search_epoch(self) -> None:
        self._update_best("search_")
        if self.phase_epoch >= self.search_epochs or (self.searched.early_stop and self.best.exhausted):
            self._freeze()

    def _end_training_epoch(self) -> None:
        self._update_best("")
        if self.best.exhausted or training_ends(self.trainer):
            self.best.restore(self)
            self.finished = self.trainer.should_stop = True

    def _freeze(self) -> None:
        """Fix the selection, and make everything ready for the retraining."""
        if self.searched.early_stop:
            self.best.restore(self)
        self.searched.freeze()
        batches = cast(Any, self.trainer).datamodule.val_dataloader()
        self.searched.check_open(batch.ids.to(self.device) for batch in batches)
        if self.init_mode != "best":
            self.network.load_state_dict(self.rewound)
        self.rewound = {}
        for optimizer in self._raw_optimizers():
            if not self.reuse_optimizer_state:
                optimizer.state.clear()
        for optimizer in self._raw_optimizers()[: self._network_optimizers]:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        self.best.reset()
        self.phase, self.phase_epoch, self.phase_step = "retrain", 0, 0
        if self.trainer.is_global_zero:
            self.searched.save(Path(self.trainer.default_root_dir) / "selection.pt", self.names, self.vocabulary)
        log.info("the search ended after epoch %d; the predictor is retrained", self.current_epoch + 1)

    def _decay_rate(self) -> None:
        for optimizer in self._raw_optimizers()[: self._network_optimizers]:
            for group in optimizer.param_groups:
                group["lr"] *= self.plateau_factor

    def _update_best(self, prefix: str) -> None:
        """Keep the weights of this epoch if it is the best, else lower the rate; nothing after an unvalidated epoch."""
        if not self.validated:
            return
        value = float(self.trainer.callback_metrics[f"val/{prefix}{self.stop_on}"])
        if math.isnan(value):
            raise ValueError(f"val/{prefix}{self.stop_on} is not defined: the validation part has one label only")
        if not self.best.update(value, self.state_dict()):
            self._decay_rate()

    def _network_state(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}

    def _raw_optimizers(self) -> list[Any]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _next_validation(self) -> Any:
        """Return the next validation batch; the part starts anew at its end and in each epoch."""
        if self._validation is None:
            self._validation = chain.from_iterable(repeat(cast(Any, self.trainer).datamodule.val_dataloader()))
        return self.transfer_batch_to_device(next(self._validation), self.device, 0)

    # ---- evaluation ----

    def on_validation_epoch_start(self) -> None:
        """Begin a new evaluation."""
        self.evaluation = Evaluation()

    def on_test_epoch_start(self) -> None:
        """Begin a new evaluation."""
        self.evaluation = Evaluation()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the evaluation."""
        self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the evaluation."""
        self._evaluate(batch)

    def _evaluate(self, batch: Any) -> None:
        gates = None if self.selection is None else self.selection.gates(batch.ids)
        logits = self.network(batch.ids, *(gates or Gates()))
        self.evaluation.add(logits, batch.labels, gates)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of validation."""
        logits, labels = self.evaluation.gathered(self)
        prefix = "search_" if self.phase == "search" else ""
        values = {
            f"val/{prefix}auc": metrics.auc(logits, labels),
            f"val/{prefix}logloss": metrics.log_loss(logits, labels),
        }
        values |= {f"val/{name}": value for name, value in self._gate_metrics().items()}
        if not self.trainer.sanity_checking:
            self.curve.append(values)
            self.validated = True
        self.log_dict(values)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        logits, labels = self.evaluation.gathered(self)
        values = {f"test/{name}": value for name, value in (summarise(logits, labels) | self._gate_metrics()).items()}
        values["test/parameters"] = float(sum(p.numel() for p in self.network.parameters()))
        values |= {f"time/{phase}": seconds for phase, seconds in self.seconds.items() if seconds}
        if self.selection is not None:
            values["test/selection_parameters"] = float(sum(p.numel() for p in self.selection.parameters()))
            values |= {f"test/{name}": value for name, value in recovery(self.selection, self.planted).items()}
        if self.export:
            values |= export_pruned(self.network, self.searched, Path(self.trainer.default_root_dir) / "pruned.pt")
        kept = self.evaluation.kept(self)
        self.tested = {"logits": logits, "labels": labels} | ({} if kept is None else {"kept": kept})
        self.log_dict(values)

    def _gate_metrics(self) -> dict[str, float]:
        kept = self.evaluation.kept(self)
        if self.selection is None or kept is None:
            return {}
        values = {"kept_ratio": float(kept.mean())}
        if (pairs := self.selection.value_level_pairs()) is not None:
            values["value_level"] = float(pairs.double().mean())
        return values

    def figures(self) -> dict[str, Any]:
        """Return the kept pairs, the choice of granularity, the kept ratio over epochs, and the calibration."""
        from methods.optfeature.figures import run_figures

        return run_figures(self.selection, self.names, self.curve, self.tested)

    # ---- checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the stage and everything that the rest of it needs."""
        state = {name: copy.copy(getattr(self, name)) for name in STAGE_STATE}
        checkpoint["ctr"] = state | {"best": self.best.state_dict(), "vocabulary": self.vocabulary}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the stage.

        Raises:
            ValueError: the checkpoint was made with the vocabulary of other data.
        """
        state = checkpoint["ctr"]
        if self.vocabulary and state["vocabulary"] != self.vocabulary:
            raise ValueError(
                f"the checkpoint was made with vocabulary {state['vocabulary']}, the data has {self.vocabulary}: its "
                "ids mean other values. Use the data that the model was trained on"
            )
        for name in STAGE_STATE:
            setattr(self, name, state[name])
        self.best.load_state_dict(state["best"])
        if self.selection is not None:
            self.selection.set_trainable(frozen=self.phase == "retrain")
