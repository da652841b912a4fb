"""Base classes of all methods of shape reconstruction: the test stage, and training by Adam."""

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

from datasets.checks import check_not_negative, check_positive
from datasets.progress import UNDERWAY, seconds_left
from methods.occnet.evaluation import Reconstruction, Scorer, class_means, ground_truth, mean_scores, write_scores
from methods.occnet.export import FORMATS, write_mesh, write_points

log = logging.getLogger(__name__)

CATEGORY_METRICS = ("iou", "chamfer_l1", "normals", "fscore")  # metrics that are also logged per category
PROGRESS_SECONDS = 30.0  # time between two lines of progress


class ShapeReconstruction(LightningModule):
    """Test stage of all methods: each test shape is reconstructed and scored against the true one.

    Subclasses implement `reconstruct`.

    Metrics are means over the categories of means over their shapes; those of `CATEGORY_METRICS` are also logged as
    `test/<metric>_<category>` if there are several categories. `test/iou` (of the mesh, at the stored points),
    `test/chamfer_l1`, `test/accuracy`, `test/completeness` (1 is a tenth of the edge of the unit cube), `test/normals`
    (consistency, -1..1), `test/fscore` (at 1 % of the edge), `test/empty` (share of the reconstructions without a
    surface, which get the worst value of every metric), `test/reconstruct_seconds` (per shape). Point sets have no IoU
    and no normals, open meshes no IoU. The folder of the run gets `shapes.csv`, one row per shape.

    Args:
        surface_samples: number of points drawn from each mesh.
        export: file format of the reconstructions, which are kept in `meshes/` of the folder of the run (ply, obj, glb;
            points are always ply); None: they are not kept.
        num_shown: number of shapes in the figures, and as 3D objects in W&B, if that is the logger.
    """

    tasks = ("shape-reconstruction",)

    def __init__(self, surface_samples: int = 100_000, export: str | None = None, num_shown: int = 4) -> None:
        super().__init__()
        check_positive("method", surface_samples=surface_samples)
        if export not in (None, *FORMATS):
            raise ValueError(f"method.export must be null or one of {', '.join(FORMATS)}; got {export}")
        check_not_negative("method", num_shown=num_shown)
        self.surface_samples, self.export_format, self.num_shown = surface_samples, export, num_shown
        self.shown: list[Any] = []
        self.means: dict[str, float] = {}

    def reconstruct(self, batch: Any) -> Reconstruction:
        """Reconstruct the only shape of a `ShapeBatch`. Subclasses implement it."""
        raise NotImplementedError(f"{type(self).__name__} must implement reconstruct")

    def predict_files(self, paths: list[Path], out: Path, data: Any, suffix: str = "ply") -> list[Path]:
        """Write a mesh for each point cloud or picture (`prediction.reconstruct_files`).

        Args:
            paths: files, or folders of them.
            out: folder of the meshes.
            data: DataModule of the run.
            suffix: ply, obj or glb.
        """
        from methods.occnet.prediction import reconstruct_files

        return reconstruct_files(self.reconstruct, paths, out, data, suffix)

    def on_test_start(self) -> None:
        """Prepare the scorer."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.names, self.categories = data.names("test"), data.category_of("test")
        self.scorer = Scorer(self.surface_samples, self.device)
        self.shown = []
        self.started = self.reported = time.monotonic()

    def test_step(self, batch: Any, number: int) -> None:
        """Reconstruct and score a shape."""
        from methods.occnet.figures import ShownShape

        started = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):
            prediction = self.reconstruct(batch)
        seconds = time.perf_counter() - started
        prediction = prediction._replace(metrics={**prediction.metrics, "reconstruct_seconds": seconds})
        index = int(batch.index)
        truth = ground_truth(batch)
        self.scorer.add(index, prediction, truth)
        if len(self.shown) < self.num_shown and self._is_shown(index):
            self.shown.append(ShownShape(self.names[index], batch.inputs[0].cpu().numpy(), prediction, truth))
            self._log_to_wandb(index, prediction)
        if self.export_format:
            self._export(index, prediction)
        self._report_progress(number + 1)

    def _is_shown(self, index: int) -> bool:
        """Return whether the figures show the shape: one of every category before a second one of any."""
        shown = [self.categories[self.names.index(shape.name)] for shape in self.shown]
        return self.categories[index] not in shown or len(shown) >= len(set(self.categories))

    def _report_progress(self, done: int) -> None:
        """Log progress now and then, if there is no progress bar."""
        now, (total,) = time.monotonic(), self.trainer.num_test_batches
        if now - self.reported >= PROGRESS_SECONDS and not self.trainer.progress_bar_callback:
            self.reported = now
            left = seconds_left(self.started, done, int(total))
            log.info("reconstructed %d of %d shapes, %.0f s left", done, int(total), left, extra=UNDERWAY)

    def _export(self, index: int, prediction: Reconstruction) -> None:
        """Write a reconstruction to `meshes/<category>/` of the folder of the run."""
        folder = Path(self.trainer.default_root_dir) / "meshes" / self.categories[index]
        folder.mkdir(parents=True, exist_ok=True)
        name = self.names[index].replace("/", "_")
        if prediction.mesh is not None:
            write_mesh(folder / f"{name}.{self.export_format}", prediction.mesh)
        elif prediction.points is not None:
            write_points(folder / f"{name}.ply", prediction.points)

    def _log_to_wandb(self, index: int, prediction: Reconstruction) -> None:
        """Log a mesh as a 3D object, if the logger is W&B."""
        loggers = [logger for logger in self.loggers if isinstance(logger, WandbLogger)]
        if prediction.mesh is None or prediction.mesh.empty or not loggers:
            return
        import wandb

        with TemporaryDirectory() as folder:
            path = Path(folder) / "mesh.glb"
            write_mesh(path, prediction.mesh)
            loggers[0].log_metrics({f"meshes/{self.names[index]}": wandb.Object3D(str(path))})  # type: ignore[dict-item]

    def on_test_epoch_end(self) -> None:
        """Gather the scores of all processes, write them and log their means."""
        scores = self.scorer.finish()
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, scores)
            scores = dict(sorted((index, row) for part in gathered for index, row in part.items()))
        if self.trainer.is_global_zero:
            write_scores(Path(self.trainer.default_root_dir) / "shapes.csv", scores, self.names, self.categories)
        by_category = class_means(scores, self.categories)
        metrics = {f"test/{key}": value for key, value in mean_scores(by_category.values()).items()}
        if len(by_category) > 1:
            metrics |= {
                f"test/{k}_{name}": row[k] for name, row in by_category.items() for k in CATEGORY_METRICS if k in row
            }
        self.means = metrics
        if empty := sum(row["empty"] for row in scores.values()):
            log.warning("%d of %d reconstructions have no surface and get the worst scores", empty, len(scores))
        self.log_dict({key: torch.tensor(value, dtype=torch.float64) for key, value in metrics.items()})

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run by name."""
        from methods.occnet.figures import plot_reconstructions

        return {"reconstructions": plot_reconstructions(self.shown)} if self.shown else {}


class TrainedReconstruction(ShapeReconstruction):
    """Method that trains a network by Adam. Metrics: `train/loss`, `val/loss`, and those of the test.

    Subclasses implement `loss_terms` and `reconstruct`.

    Args:
        network: network.
        lr: learning rate of Adam.
        weight_decay: weight decay of Adam.
        lr_decay: last share of the training, in which the learning rate falls linearly to 0; 0: it is constant, as in
            the paper.
        monitor: metric that selects the weights; None: the last weights.
        **kwargs: arguments of `ShapeReconstruction`.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        lr_decay: float = 0.0,
        monitor: str | None = "val/loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive("method", lr=lr)
        check_not_negative("method", weight_decay=weight_decay)
        if not 0 <= lr_decay <= 1:
            raise ValueError(f"method.lr_decay is a share of the training, 0 to 1, got {lr_decay}")
        self.network, self.lr, self.weight_decay, self.monitor = network, lr, weight_decay, monitor
        self.lr_decay = lr_decay

    @property
    def monitor_mode(self) -> str:
        """Return whether the monitored metric is to be small (`min`) or large (`max`)."""
        return "min" if (self.monitor or "").endswith("loss") else "max"

    def configure_optimizers(self) -> Any:
        """Return Adam, with a linear decay at the end if `lr_decay` is set."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if not self.lr_decay:
            return optimizer
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        scheduler = LambdaLR(optimizer, lambda step: min(1.0, (1 - step / steps) / self.lr_decay))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Return `loss`, and other metrics of a batch, in training and validation. Subclasses implement it."""
        raise NotImplementedError(f"{type(self).__name__} must implement loss_terms")

    def training_step(self, batch: Any, number: int) -> Tensor:
        """Return the loss of a batch and log its metrics."""
        metrics = self.loss_terms(batch)
        self.log_split("train", metrics, len(batch.index))
        return metrics["loss"]

    def validation_step(self, batch: Any, number: int) -> None:
        """Log the metrics of a shape."""
        self.log_split("val", self.loss_terms(batch), len(batch.index))

    def log_split(self, split: str, metrics: dict[str, Tensor], size: int) -> None:
        """Log metrics as means over an epoch.

        Args:
            split: `train` or `val`.
            metrics: metrics by name.
            size: number of shapes of the batch.
        """
        named: dict[str, Any] = {f"{split}/{key}": value for key, value in metrics.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=size, sync_dist=split == "val")
