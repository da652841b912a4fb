"""What all methods of shape reconstruction share: the test stage, and Adam."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from methods.occnet.evaluation import Reconstruction, Scorer, class_means, mean_of, truth_of, write_scores
from methods.occnet.export import FORMATS, write_mesh, write_points

log = logging.getLogger(__name__)

TOLD = ("iou", "chamfer_l1", "normals", "fscore")  # metrics that are logged of every category too


class ShapeReconstruction(LightningModule):
    """The test stage of every method here: each test shape is reconstructed and scored against the true one.

    Metrics, means over the categories of means over their shapes, and of the chief ones `test/<metric>_<category>`
    where there are several: `test/iou` (of the mesh, on the stored points), `test/chamfer_l1`, `test/accuracy`,
    `test/completeness` (a tenth of the unit cube's edge is 1), `test/normals` (consistency, -1..1), `test/fscore` (at
    1 % of the edge), `test/empty` (share of the shapes without a surface, which get the worst of every metric). Point
    sets have no IoU and no normals, open meshes no IoU. `test/reconstruct_seconds`: of a shape. In the run's folder:
    `shapes.csv`, a row a shape.

    Args:
        samples: points drawn from each mesh. export: format in which the reconstructions are kept in `meshes/` of the
            run's folder (ply, obj, glb; points are always ply); None: they are not.
        show: how many shapes the figures show, and W&B from all sides, where it is the logger.

    A subclass has `reconstruct(batch)`, a `ShapeBatch` of one shape -> `Reconstruction`.
    """

    tasks = ("shape-reconstruction",)

    def __init__(self, samples: int = 100_000, export: str | None = None, show: int = 4) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"method.samples must be positive, got {samples}")
        if export not in (None, *FORMATS):
            raise ValueError(f"method.export must be null or one of {', '.join(FORMATS)}; got {export}")
        if show < 0:
            raise ValueError(f"method.show must not be negative, got {show}")
        self.samples, self.export, self.show = samples, export, show
        self.shown: list[Any] = []
        self.means: dict[str, float] = {}

    def reconstruct(self, batch: Any) -> Reconstruction:
        raise TypeError(f"{type(self).__name__} does not say how it reconstructs")

    def on_test_start(self) -> None:
        data = self.trainer.datamodule
        self.names, self.categories = data.names("test"), data.category_of("test")
        self.scorer = Scorer(self.samples, self.device)
        self.shown = []
        self.started = self.told = time.monotonic()

    def test_step(self, batch: Any, number: int) -> None:
        from methods.occnet.figures import Shown

        started = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):
            found = self.reconstruct(batch)
        found = found._replace(measured=found.measured | {"reconstruct_seconds": time.perf_counter() - started})
        index = int(batch.index)
        true = truth_of(batch)
        self.scorer.add(index, found, true)
        if len(self.shown) < self.show and self._worth_showing(index):
            self.shown.append(Shown(self.names[index], batch.inputs[0].cpu().numpy(), found, true))
            self._track(index, found)
        if self.export:
            self._export(index, found)
        self._tell(number + 1)

    def _worth_showing(self, index: int) -> bool:
        """Of every category one, before a second one of any."""
        shown = [self.categories[self.names.index(shape.name)] for shape in self.shown]
        return self.categories[index] not in shown or len(shown) >= len(set(self.categories))

    def _tell(self, done: int) -> None:
        now, (total,) = time.monotonic(), self.trainer.num_test_batches
        if now - self.told >= 30 and not self.trainer.progress_bar_callback:
            self.told = now
            left = (now - self.started) / done * (total - done)
            log.info("reconstructed %d of %d shapes, %.0f s left", done, int(total), left)

    def _export(self, index: int, found: Reconstruction) -> None:
        """Keeps what was made as a file, where that is wanted."""
        folder = Path(self.trainer.default_root_dir) / "meshes" / self.categories[index]
        folder.mkdir(parents=True, exist_ok=True)
        name = self.names[index].replace("/", "_")
        if found.mesh is None:
            write_points(folder / f"{name}.ply", found.points)
        else:
            write_mesh(folder / f"{name}.{self.export}", found.mesh)

    def _track(self, index: int, found: Reconstruction) -> None:
        """Hands a mesh to W&B, which shows it from all sides."""
        if found.mesh is None or found.mesh.empty or not isinstance(self.logger, WandbLogger):
            return
        import wandb

        with TemporaryDirectory() as folder:
            path = Path(folder) / "mesh.glb"
            write_mesh(path, found.mesh)
            self.logger.log_metrics({f"meshes/{self.names[index]}": wandb.Object3D(str(path))})

    def on_test_epoch_end(self) -> None:
        scores = self.scorer.finish()
        if self.trainer.world_size > 1:
            everyone: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyone, scores)
            scores = dict(sorted((index, row) for part in everyone for index, row in part.items()))
        if self.trainer.is_global_zero:
            write_scores(Path(self.trainer.default_root_dir) / "shapes.csv", scores, self.names, self.categories)
        by_category = class_means(scores, self.categories)
        metrics = {f"test/{key}": value for key, value in mean_of(by_category.values()).items()}
        if len(by_category) > 1:
            metrics |= {f"test/{k}_{name}": row[k] for name, row in by_category.items() for k in TOLD if k in row}
        self.means = metrics
        if empty := sum(row["empty"] for row in scores.values()):
            log.warning("%d of %d reconstructions have no surface and count as the worst", empty, len(scores))
        self.log_dict({key: torch.tensor(value, dtype=torch.float64) for key, value in metrics.items()})

    def figures(self) -> dict[str, Any]:
        from methods.occnet.figures import reconstructions

        return {"reconstructions": reconstructions(self.shown)} if self.shown else {}


class Training(ShapeReconstruction):
    """What is trained, by Adam. Metrics: `train/loss`, `val/loss`, and the test's.

    Args:
        network: of the data. lr, weight_decay: of Adam. decay: the last share of the training, in which the rate falls
            linearly to 0; 0: it is constant, as in the paper. monitor: metric that picks the weights; None: the last.
        The others: as of `ShapeReconstruction`.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        decay: float = 0.0,
        monitor: str | None = "val/loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if lr <= 0:
            raise ValueError(f"method.lr must be positive, got {lr}")
        if weight_decay < 0:
            raise ValueError(f"method.weight_decay must not be negative, got {weight_decay}")
        if not 0 <= decay <= 1:
            raise ValueError(f"method.decay is a share of the training, 0 to 1, got {decay}")
        self.network, self.lr, self.weight_decay, self.monitor = network, lr, weight_decay, monitor
        self.decay = decay

    @property
    def monitor_mode(self) -> str:
        return "min" if (self.monitor or "").endswith("loss") else "max"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if not self.decay:
            return optimizer
        steps = max(self.trainer.estimated_stepping_batches, 1)
        scheduler = LambdaLR(optimizer, lambda step: min(1.0, (1 - step / steps) / self.decay))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def measure(self, batch: Any) -> dict[str, Tensor]:
        """`loss`, and what else is to be logged of a batch in training and validation."""
        raise TypeError(f"{type(self).__name__} does not say what it minimises")

    def training_step(self, batch: Any, number: int) -> Tensor:
        metrics = self.measure(batch)
        self._log("train", metrics, len(batch.index))
        return metrics["loss"]

    def validation_step(self, batch: Any, number: int) -> None:
        self._log("val", self.measure(batch), len(batch.index))

    def _log(self, split: str, metrics: dict[str, Tensor], size: int) -> None:
        named = {f"{split}/{key}": value for key, value in metrics.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=size, sync_dist=split == "val")
