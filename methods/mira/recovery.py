"""Recovery of samples from a marked model as a run of its own, which all variants of MIRA share."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_fraction
from datasets.files import atomic_write
from datasets.progress import track
from methods.manual_optimization import ManualOptimization
from methods.mira.inversion import Inversion
from methods.mira.verification import predict
from methods.mira.victim import check_source, load_victim


class Recovery(ManualOptimization):
    """Inversion of a marked model, class by class. The checkpoint holds the recovered samples.

    Each class is kept in the run's folder when it is done, so that a run that was killed goes on with the next one.

    Metrics: `train/recovered_acc` (share of recovered samples that the model puts into their class),
    `train/inversion_seconds`, `train/steps_per_second` (steps of one class).

    Args:
        network: classifier.
        inversion: settings of the inversion.
        victim: checkpoint of the marked model, from a run of `Embedding`; None: the weights come from `init_from`.
        init_from: file of a model of one's own, whose weights the network has already; None with a `victim`.
        min_trigger_acc: trigger accuracy that a marked model of the bench must have.

    Raises:
        ValueError: a value is out of its range, or no model or two are named.
    """

    tasks = ("image-classification",)
    distributed = False

    def __init__(
        self,
        network: nn.Module,
        inversion: Inversion,
        victim: Path | None = None,
        init_from: Any = None,
        min_trigger_acc: float = 0.95,
    ) -> None:
        super().__init__()
        check_fraction("method", min_trigger_acc=min_trigger_acc)
        check_source(victim, init_from)
        self.network, self.inversion, self.victim_path = network, inversion, victim
        self.min_trigger_acc = min_trigger_acc

    def prepare(self, data: Any) -> None:
        """Load the marked model.

        Raises:
            ValueError: it is of another architecture, or not marked.
        """
        load_victim(self.network, self.victim_path, None).check_marked(self.network, self.min_trigger_acc)
        self.seed = int(data.seed)
        side, channels = int(self.network.image_size), int(self.network.in_channels)  # type: ignore[arg-type]
        shape = (len(data.classes), self.inversion.per_class, channels, side, side)
        self.register_buffer("recovered", torch.zeros(shape))
        self.register_buffer("seconds", torch.zeros(()))
        data.steps = lambda: 1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Invert all classes and return the share of recovered samples outside of their class."""
        folder = Path(self.trainer.default_root_dir) / "inverted"
        batches = track(self.inversion.batches_of(len(self.recovered)), "inverted classes")  # type: ignore[arg-type]
        with torch.enable_grad():
            parts = [recover_once(self.network, labels, self.inversion, self.seed, folder) for labels in batches]
        recovered, seconds = torch.cat([images for images, _ in parts]), sum(spent for _, spent in parts)
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

    def on_fit_end(self) -> None:
        """Remove the classes that were kept for a run that is killed: the checkpoint has them all."""
        shutil.rmtree(Path(self.trainer.default_root_dir) / "inverted", ignore_errors=True)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing: the marked model stays as it is."""

    def configure_optimizers(self) -> None:
        """Return no optimizer: the inversion has its own."""


def recover_once(
    network: nn.Module, labels: list[int], inversion: Inversion, seed: int, folder: Path
) -> tuple[Tensor, float]:
    """Recover images of some classes, or read them if a run that was killed has kept them.

    Args:
        network: marked model. The file's name has a hash of its weights, so that those of another model are not taken.
        labels: classes.
        inversion: settings of the inversion.
        seed: seed of the first images.
        folder: where the images are kept; it belongs to one setting of the inversion.

    Returns:
        Images (len(labels), n, C, H, W) on the network's device, and the seconds that they took.
    """
    sha = hashlib.sha256()
    for value in network.state_dict().values():
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    file = folder / f"{sha.hexdigest()[:16]}-{labels[0]}-{labels[-1]}.pt"
    if file.exists():
        kept = torch.load(file, map_location=next(network.parameters()).device, weights_only=True)
        return kept["images"], kept["seconds"]
    started = time.perf_counter()
    images = inversion.recover(network, labels, seed)
    seconds = time.perf_counter() - started
    folder.mkdir(exist_ok=True)
    with atomic_write(file) as temporary:
        torch.save({"images": images.cpu(), "seconds": seconds}, temporary)
    return images, seconds


def load_recovered(checkpoint: Path) -> tuple[Tensor, float]:
    """Return the recovered samples (K, n, C, H, W) of a run of `Recovery`, and the seconds that they took."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return state["recovered"], float(state["seconds"])
