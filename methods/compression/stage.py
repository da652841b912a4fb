"""A stage of a pipeline: one transformation of a network, what it accepts, and what may follow it."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.compression.files import write_json
from methods.compression.quantization.layers import deploy
from methods.compression.training import Recipe, accuracy, recalibrate_batchnorm, train

log = logging.getLogger(__name__)

# Forms of a network between stages.
FLOAT = "float"  # layers of torch.nn in floating point, possibly with zeros, where the dense network has them
BUILT = "built"  # the same in an order of their own: factors of layers, or an architecture that was searched for
EXITS = "exits"  # a network that images leave early
SHARED = "shared"  # weights of few different values
QUANTIZED = "quantized"  # layers with quantizers
INT8 = "int8"  # an exported graph with int8 kernels


@dataclass
class Context:
    """Resources of a stage beside the network.

    Args:
        data: DataModule of labelled images, set up.
        dense: trained network that the pipeline starts from.
        device: device of the training.
        seed: seed of what a stage draws.
        folder: folder for files of the stage, or None.
        label: name of the stage.
        numbers: numbers that a stage reports, by name.
        drawings: functions that return a matplotlib figure, by name.
    """

    data: Any
    dense: nn.Module
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    folder: Path | None = None
    label: str = "stage"
    numbers: dict[str, float] = field(default_factory=dict)
    drawings: dict[str, Callable[[], Any]] = field(default_factory=dict)
    trainings: int = 0

    @property
    def dims(self) -> dict[str, Any]:
        """Arguments of a network that follow from the data."""
        return self.data.dims

    @property
    def example(self) -> Tensor:
        """One training image (1, C, H, W) in [0, 1] on the device."""
        return self.images(1)

    def images(self, count: int) -> Tensor:
        """Return the first training images (N, C, H, W) in [0, 1] on the device."""
        return self.data.train_images[:count].to(self.device).float() / 255

    def fresh(self) -> nn.Module:
        """Return a network like the dense one with new initial weights, which follow from the seed."""
        network: Any = copy.deepcopy(self.dense)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            network.reset_parameters()
        return network

    def test_images(self, count: int) -> Tensor:
        """Return the first test images (N, C, H, W) in [0, 1] on the device."""
        return self.data.parts["test"].images[:count].to(self.device).float() / 255

    def batches(self) -> Any:
        """Return the loader of training batches."""
        return self.data.train_dataloader()

    def few_batches(self, count: int) -> Iterator[Any]:
        """Yield some training batches."""
        for _, batch in zip(range(count), self.batches(), strict=False):
            yield batch

    def train(self, network: nn.Module, recipe: Recipe, **options: Any) -> nn.Module:
        """Train a network on the training part; options as for `training.train`."""
        if "checkpoint" not in options:
            options["checkpoint"] = self.next_state()
        options.setdefault("label", self.label)
        return train(network, options.pop("loader", None) or self.batches(), recipe, **options)

    def next_state(self) -> Path | None:
        """Return the file for the state of the stage's next training."""
        self.trainings += 1
        return None if self.folder is None else self.folder / f"training_{self.trainings}.pt"

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what a function returns, in JSON; a resumed stage gets it, and the numbers so far, from its folder.

        Args:
            name: name of the file.
            make: function.
        """
        path = None if self.folder is None else self.folder / f"{name}.json"
        if path is not None and path.exists():
            kept = json.loads(path.read_text())
            self.numbers |= kept["numbers"]
            return kept["value"]
        value = make()
        if path is not None:
            write_json(path, {"value": value, "numbers": self.numbers})
        return value

    def recalibrate(self, network: nn.Module, batches: int) -> None:
        """Measure the statistics of batch normalisation anew."""
        recalibrate_batchnorm(network, self.batches(), batches)

    def accuracy(self, network: nn.Module) -> float:
        """Return the accuracy that choices may be based on: of the held-out part, or of the training part."""
        if "val" in self.data.parts:
            return accuracy(network, self.data._loader("val", self.data.eval_batch_size))
        return accuracy(network, self.data.plain_batches())

    def test_accuracy(self, network: nn.Module) -> float:
        """Return the accuracy on the test part, for reports alone."""
        return accuracy(network, self.data.test_dataloader())


class Stage:
    """Base class of stages. A stage takes a network and returns another one; it may change the one it got.

    Attributes:
        accepts: forms of networks that it can work on.
        result: form of what it returns; None: the form that it got.
        first_only: whether it starts from new weights or builds a network of its own, so that it must come first.
        prunes: whether it sets weights to zero.
        keeps_zeros: whether weights that are zero stay at zero.
        cpu_only: whether what it returns runs on a CPU alone.
    """

    accepts: tuple[str, ...] = (FLOAT, BUILT)
    result: str | None = None
    first_only = False
    prunes = False
    keeps_zeros = True
    cpu_only = False
    recipe: Recipe

    def check(self, network: nn.Module, data: Any) -> None:
        """Raise ValueError if the stage cannot work on the network that the pipeline starts from.

        Args:
            network: network, not yet trained.
            data: DataModule, set up.
        """

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Return the transformed network, in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")

    def ready(self, network: nn.Module) -> nn.Module:
        """Return what the stage has made, or what was read from its file, as it is measured: with stored codes."""
        return deploy(network) if self.result == QUANTIZED else network


def choose(stages: Mapping[str, Stage], pipeline: Sequence[str]) -> dict[str, Stage]:
    """Return the stages of a pipeline in its order.

    Args:
        stages: stages by name.
        pipeline: names in the order in which they run; a name may occur once.

    Raises:
        ValueError: a name is unknown or occurs twice, or a stage cannot follow the one before it.
    """
    if not pipeline:
        raise ValueError(f"method.pipeline is empty; choose from {', '.join(stages)}")
    for name in pipeline:
        if name not in stages:
            raise ValueError(f"method.pipeline: there is no stage {name}; choose from {', '.join(stages)}")
    if len(set(pipeline)) < len(pipeline):
        raise ValueError(f"method.pipeline names a stage twice: {', '.join(pipeline)}")
    form, before, pruned = FLOAT, "the dense network", False
    for place, name in enumerate(pipeline):
        if reason := refusal(stages[name], form, before, bool(place), pruned):
            fitting = [
                other
                for other, candidate in stages.items()
                if other not in pipeline[:place] and not refusal(candidate, form, before, bool(place), pruned)
            ]
            raise ValueError(f"method.pipeline: {name} {reason}. What can follow: {', '.join(fitting) or 'nothing'}")
        form, before, pruned = stages[name].result or form, name, pruned or stages[name].prunes
    return {name: stages[name] for name in pipeline}


def refusal(stage: Stage, form: str, before: str, later: bool, pruned: bool) -> str:
    """Return why a stage cannot come next, or nothing if it can.

    Args:
        stage: stage.
        form: form of the network that it would get.
        before: name of the stage before it.
        later: whether there is one.
        pruned: whether a stage before it has pruned weights.
    """
    if stage.first_only and later:
        return "must come first: it starts from new weights or builds a network of its own"
    if form not in stage.accepts:
        return f"cannot follow {before}"
    return "has no zero among its weights and would undo the pruning" if pruned and not stage.keeps_zeros else ""
