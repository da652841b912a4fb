"""Recovery of samples from a marked model as a run of its own, which all variants of MIRA share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.progress import track
from methods.manual_optimization import ManualOptimization
from methods.mira.inversion import Inversion
from methods.mira.verification import predict
from methods.mira.victim import load_victim


class Recovery(ManualOptimization):
    """Inversion of a marked model, class by class. The checkpoint holds the recovered samples.

    Metrics: `train/recovered_acc` (share of recovered samples that the model puts into their class),
    `train/inversion_seconds`, `train/steps_per_second` (steps of one class).

    Args:
        network: classifier.
        inversion: settings of the inversion.
        victim: checkpoint of the marked model, from a run of `Embedding`; None: the weights come from `init_from`.
    """

    tasks = ("image-classification",)
    distributed = False

    def __init__(self, network: nn.Module, inversion: Inversion, victim: Path | None = None) -> None:
        super().__init__()
        self.network, self.inversion, self.victim_path = network, inversion, victim

    def prepare(self, data: Any) -> None:
        """Load the marked model."""
        load_victim(self.network, self.victim_path, None)
        self.seed = int(data.seed)
        side, channels = int(self.network.image_size), int(self.network.in_channels)  # type: ignore[arg-type]
        shape = (len(data.classes), self.inversion.per_class, channels, side, side)
        self.register_buffer("recovered", torch.zeros(shape))
        self.register_buffer("seconds", torch.zeros(()))
        data.steps = lambda: 1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Invert all classes and return the share of recovered samples outside of their class."""
        started = time.perf_counter()
        with torch.enable_grad():
            recovered = self.inversion(self.network, self.seed, track)
        seconds = time.perf_counter() - started
        assert isinstance(self.recovered, Tensor)
        assert isinstance(self.seconds, Tensor)
        self.recovered.copy_(recovered)
        self.seconds.fill_(seconds)
        classes = torch.arange(len(recovered), device=self.device).repeat_interleave(recovered.shape[1])
        hits = predict(self.network, recovered.flatten(0, 1)) == classes
        steps = self.inversion.steps * len(recovered)
        self.log_dict(
            {
                "train/recovered_acc": hits.float().mean(),
                "train/inversion_seconds": seconds,
                "train/steps_per_second": steps / seconds,
            },
            batch_size=1,
        )
        return 1 - hits.float().mean()

    def configure_optimizers(self) -> None:
        """Return no optimizer: the inversion has its own."""


def load_recovered(checkpoint: Path) -> tuple[Tensor, float]:
    """Return the recovered samples (K, n, C, H, W) of a run of `Recovery`, and the seconds that they took."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return state["recovered"], float(state["seconds"])
