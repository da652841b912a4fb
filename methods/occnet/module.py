"""Reconstruction of shapes: what all methods of the comparison share, and the paper's own."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR

from methods.occnet.evaluation import Reconstruction, Scorer, Truth, class_means, mean_of, write_scores
from methods.occnet.export import FORMATS, write_mesh, write_points
from methods.occnet.metrics import iou, ious
from methods.occnet.mise import Grid, check_resolution, mise
from methods.occnet.network import OccupancyNetwork
from methods.occnet.surface import Mesh, field_normals, march, refine, simplify

log = logging.getLogger(__name__)

CHUNK = 100_000  # points that go through the decoder at once
TOLD = ("iou", "chamfer_l1", "normals", "fscore")  # metrics that are logged of every category too
POSTERIOR_POINTS = 2048  # by which a latent code is inferred in validation and test


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
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
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


class OccupancyTraining(Training):
    """The paper's method: binary cross-entropy of the occupancy at drawn points; meshes by MISE.

    A network with a latent code is trained as a variational autoencoder: its loss is the cross-entropy plus KL(q ||
    N(0, 1)) (paper, equation 3), and in validation and test a shape's code is the mean of q, inferred from 2,048 of
    its points; the figures then also show shapes generated from the prior.

    Metrics besides those of `Training`: `train/iou`, `val/iou` (of the network itself, on the points), `val/kl`,
    `val/threshold` (with `tune`); `test/net_iou` (of the network, where `test/iou` is the mesh's), `test/evaluated`
    (how many points MISE evaluated for a shape, as a share of the dense grid), `test/faces`.

    Args:
        threshold: tau, of the probability; the surface is where it is reached (paper: 0.2). tune: after every
            validation, the one of 0.05, 0.1, ..., 0.95 with the highest IoU takes its place, and is kept with the
            weights.
        val_points: stored points of each shape that a validation uses, the first ones; None: all.
        resolution: cells a side of the finest grid, a power of two times resolution_0, that of the first.
        simplify: number of faces that meshes are reduced to; None: they are not. refine_steps: of the gradient-based
            refinement. normals: meshes that are kept get the field's normals at their vertices.
        generate: how many shapes the figures show that are drawn from the prior.
        The others: as of `Training`.
    """

    def __init__(
        self,
        network: nn.Module,
        threshold: float = 0.2,
        tune: bool = False,
        val_points: int | None = None,
        resolution: int = 128,
        resolution_0: int = 32,
        simplify: int | None = None,
        refine_steps: int = 0,
        normals: bool = False,
        generate: int = 8,
        monitor: str | None = "val/iou",
        **kwargs: Any,
    ) -> None:
        super().__init__(network, monitor=monitor, **kwargs)
        if not isinstance(network, OccupancyNetwork):
            raise ValueError(
                f"this method trains an occupancy network, and {type(network).__name__} is none: model=onet"
            )
        if not 0 < threshold < 1:
            raise ValueError(f"method.threshold is a probability between 0 and 1, got {threshold}")
        check_resolution(resolution, resolution_0)
        if refine_steps < 0 or (simplify is not None and simplify < 4):
            raise ValueError(
                "method.refine_steps must not be negative and method.simplify at least 4, "
                f"got {refine_steps} and {simplify}"
            )
        if val_points is not None and val_points < 1:
            raise ValueError(f"method.val_points must be positive, got {val_points}")
        self.tune, self.val_points, self.generate = tune, val_points, generate
        self.resolution, self.resolution_0 = resolution, resolution_0
        self.simplify_to, self.refine_steps, self.normals = simplify, refine_steps, normals
        grid = torch.arange(1, 20) / 20 if tune else torch.tensor([threshold])
        self.register_buffer("thresholds", grid, persistent=False)
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self.extracted: tuple[Grid, Mesh] | None = None  # of the first test shape
        self.generated: list[Mesh] = []

    @property
    def level(self) -> float:
        """The threshold as a logit."""
        tau = float(self.threshold)
        return math.log(tau) - math.log1p(-tau)

    def measure(self, batch: Any) -> dict[str, Tensor]:
        logits, q = self(batch)
        loss, kl = elbo(logits, batch.occupancies, q)
        metrics = {"loss": loss}
        if self.training:
            inside = batch.occupancies > 0.5
            reached = logits >= self.level
            either = (inside | reached).sum(1)
            metrics["iou"] = ((inside & reached).sum(1) / either.clamp(min=1)).masked_fill(either == 0, 1.0).mean()
        if kl is not None:
            metrics["kl"] = kl
        return metrics

    def forward(self, batch: Any) -> tuple[Tensor, Normal | None]:
        """Logits (B, T) at the batch's points, and q(z). z is drawn from q in training, and q's mean otherwise."""
        c = self.network.encode(batch.inputs)
        q = self.network.infer(batch.points, batch.occupancies, c) if self.training else self.posterior(batch, c)
        return self.network.decoder(batch.points, self.latent(q, batch), c), q

    def latent(self, q: Normal | None, batch: Any) -> Tensor:
        """(B, z_dim), z_dim 0 where there is no latent code."""
        if q is None:
            return batch.points.new_zeros(len(batch.points), 0)
        return q.rsample() if self.training else q.mean

    def posterior(self, batch: Any, c: Tensor) -> Normal | None:
        first = slice(POSTERIOR_POINTS)
        return self.network.infer(batch.points[:, first], batch.occupancies[:, first], c)

    def on_validation_epoch_start(self) -> None:
        self.curve = torch.zeros(len(self.thresholds) + 1, device=self.device)

    def validation_step(self, batch: Any, number: int) -> None:
        batch = batch._replace(
            points=batch.points[:, : self.val_points], occupancies=batch.occupancies[:, : self.val_points]
        )
        logits, q = self(batch)
        loss, kl = elbo(logits, batch.occupancies, q)
        self._log("val", {"loss": loss} | ({} if kl is None else {"kl": kl}), 1)
        self.curve[:-1] += ious(logits.float().sigmoid()[0], batch.occupancies[0] > 0.5, self.thresholds)
        self.curve[-1] += 1

    def on_validation_epoch_end(self) -> None:
        total = self.all_gather(self.curve).view(-1, len(self.curve)).sum(0)
        curve = total[:-1] / total[-1]
        if self.tune:
            self.threshold.copy_(self.thresholds[curve.argmax()])
            self.log("val/threshold", self.threshold)
        self.log("val/iou", curve.max())

    def field(self, c: Tensor, z: Tensor) -> Any:
        """Places (n, 3) -> logits (n,) for the codes of one shape."""
        return lambda points: self.network.decoder(points[None], z, c)[0]

    def reconstruct(self, batch: Any) -> Reconstruction:
        c = self.network.encode(batch.inputs)
        q = self.posterior(batch, c)
        z = self.latent(q, batch)
        found, grid = self.extract(c, z, seed=int(batch.index))
        inside = self.evaluate(batch.points[0], self.field(c, z)) >= self.level
        if self.extracted is None:
            self.extracted = grid, found.mesh
        net_iou = iou(inside, batch.occupancies[0].cpu().numpy() > 0.5)
        return found._replace(measured=found.measured | {"net_iou": net_iou})

    def extract(self, c: Tensor, z: Tensor, seed: int = 0) -> tuple[Reconstruction, Grid]:
        """The mesh of the shape with these codes, (1, c_dim) and (1, z_dim), and the grid that it came from."""
        field = self.field(c, z)
        grid = mise(
            lambda places: self.evaluate(torch.as_tensor(places, device=self.device), field),
            self.level,
            self.resolution,
            self.resolution_0,
        )
        mesh = march(grid, self.level)
        if self.simplify_to and not mesh.empty:
            mesh = simplify(mesh, self.simplify_to)
        mesh = refine(mesh, field, float(self.threshold), self.refine_steps, seed=seed, device=self.device)
        if self.normals and not mesh.empty:
            mesh = mesh._replace(normals=field_normals(mesh.vertices, field, CHUNK, self.device))
        measured = {"evaluated": grid.evaluated / grid.values.size, "faces": float(len(mesh.faces))}
        return Reconstruction(mesh, measured=measured), grid

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.network.z_dim and self.network.encoder is None:
            codes = self.network.prior(self.generate).to(self.device)
            empty = codes.new_zeros(1, 0)
            self.generated = [self.extract(empty, z[None])[0].mesh for z in codes]

    def figures(self) -> dict[str, Any]:
        from methods.occnet.figures import gallery_of, refinement, slices

        drawn = super().figures()
        if self.extracted:
            grid, mesh = self.extracted
            drawn |= {"refinement": refinement(grid, mesh), "slices": slices(grid, self.level)}
        if self.generated:
            drawn["generated"] = gallery_of(self.generated)
        return drawn

    @staticmethod
    @torch.no_grad()
    def evaluate(points: Tensor, field: Any) -> np.ndarray:
        """(n, 3) -> (n,) float32, CHUNK points at a time."""
        return torch.cat([field(part) for part in points.split(CHUNK)]).float().cpu().numpy()


def elbo(logits: Tensor, occupancies: Tensor, q: Normal | None) -> tuple[Tensor, Tensor | None]:
    """Mean over the shapes of the cross-entropy summed over the points, plus KL(q || N(0, 1)), and that KL alone.

    logits, occupancies: (B, T). q: over (B, z_dim), or None (paper, equations 2 and 3).
    """
    loss = binary_cross_entropy_with_logits(logits, occupancies, reduction="none").sum(1).mean()
    if q is None:
        return loss, None
    kl = kl_divergence(q, Normal(torch.zeros_like(q.mean), torch.ones_like(q.stddev))).sum(1).mean()
    return loss + kl, kl


def truth_of(batch: Any) -> Truth:
    """Of a batch of one shape. Raises ValueError where its surface is not known."""
    if batch.surface is None or batch.normals is None:
        raise ValueError("the test shapes come without points on their surface")
    arrays = (x[0].cpu().numpy() for x in (batch.points, batch.occupancies > 0.5, batch.surface, batch.normals))
    return Truth(*arrays)
