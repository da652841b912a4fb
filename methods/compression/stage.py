"""A stage of a pipeline: one transformation of a network, what it accepts, and what may follow it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.compression.training import Recipe, accuracy, recalibrate_batchnorm, train

log = logging.getLogger(__name__)

# Forms of a network between stages.
FLOAT = "float"  # layers of torch.nn in floating point, possibly with zeros
SHARED = "shared"  # weights of few different values
QUANTIZED = "quantized"  # layers with quantizers
INT8 = "int8"  # an exported graph with int8 kernels
FORMS = (FLOAT, SHARED, QUANTIZED, INT8)


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

    def batches(self) -> Any:
        """Return the loader of training batches."""
        return self.data.train_dataloader()

    def few_batches(self, count: int) -> Iterator[Any]:
        """Yield some training batches."""
        for _, batch in zip(range(count), self.batches(), strict=False):
            yield batch

    def train(self, network: nn.Module, recipe: Recipe, **options: Any) -> nn.Module:
        """Train a network on the training part; options as for `training.train`."""
        self.trainings += 1
        if self.folder is not None:
            options.setdefault("checkpoint", self.folder / f"training_{self.trainings}.pt")
        options.setdefault("label", self.label)
        return train(network, options.pop("loader", None) or self.batches(), recipe, **options)

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
        result: form of what it returns.
        first_only: whether it builds a network of its own, so that it must come first.
    """

    accepts: tuple[str, ...] = (FLOAT,)
    result: str = FLOAT
    first_only = False
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
    form, before = FLOAT, "the dense network"
    for place, name in enumerate(pipeline):
        stage = stages[name]
        if form not in stage.accepts or (stage.first_only and place):
            fitting = [
                other
                for other, candidate in stages.items()
                if form in candidate.accepts and not (candidate.first_only and place) and other not in pipeline[:place]
            ]
            reason = "must come first" if stage.first_only else f"cannot follow {before}"
            raise ValueError(f"method.pipeline: {name} {reason}. What can follow: {', '.join(fitting) or 'nothing'}")
        form, before = stage.result, name
    return {name: stages[name] for name in pipeline}
