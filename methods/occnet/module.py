"""The paper's method: occupancy learned as a function of space."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from methods.occnet.evaluation import Reconstruction, truth_of
from methods.occnet.metrics import iou, ious
from methods.occnet.mise import Grid, check_resolution, mise, thinned
from methods.occnet.network import OccupancyNetwork
from methods.occnet.solid import look_up, voxels_of
from methods.occnet.surface import Mesh, check_simplification, field_normals, march, refine, simplify
from methods.occnet.task import Training

CHUNK = 100_000  # points that go through the decoder at once
POSTERIOR_POINTS = 2048  # by which a latent code is inferred in validation and test


class OccupancyTraining(Training):
    """The paper's method: binary cross-entropy of the occupancy at drawn points; meshes by MISE.

    A network with a latent code is trained as a variational autoencoder: its loss is the cross-entropy plus KL(q ||
    N(0, 1)) (paper, equation 3), and in validation and test a shape's code is the mean of q, inferred from 2,048 of
    its points; the figures then also show shapes generated from the prior.

    Metrics besides those of `Training`: `train/iou`, `val/iou` (of the network itself, on the points), `val/kl`,
    `val/threshold` (with `tune`); `test/net_iou` (of the network, where `test/iou` is the mesh's), `test/evaluated`
    (how many points MISE evaluated for a shape, as a share of the dense grid), `test/faces`; `test/field_seconds` (MISE
    with all evaluations) and `test/mesh_seconds` (marching cubes and what follows) of a shape.

    Args:
        threshold: tau, of the probability; the surface is where it is reached (paper: 0.2). tune: after every
            validation, the one of 0.05, 0.1, ..., 0.95 with the highest IoU takes its place, and is kept with the
            weights.
        val_points: stored points of each shape that a validation uses, the first ones; None: all.
        resolution: cells a side of the finest grid, a power of two times resolution_0, that of the first.
        resolutions: divisors of `resolution` at which the mesh's IoU is measured too (`test/iou_at_<n>`), beside that
            of so many voxels of the true shape (`test/voxel_iou_at_<n>`); nothing is evaluated anew for them.
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
        resolutions: Sequence[int] = (),
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
        if odd := [n for n in resolutions if n < 1 or resolution % n]:
            raise ValueError(f"method.resolutions must divide method.resolution={resolution}; these do not: {odd}")
        if refine_steps < 0 or (simplify is not None and simplify < 4):
            raise ValueError(
                "method.refine_steps must not be negative and method.simplify at least 4, "
                f"got {refine_steps} and {simplify}"
            )
        if simplify is not None:
            check_simplification()
        if val_points is not None and val_points < 1:
            raise ValueError(f"method.val_points must be positive, got {val_points}")
        self.tune, self.val_points, self.generate = tune, val_points, generate
        self.resolution, self.resolution_0, self.resolutions = resolution, resolution_0, list(resolutions)
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
        loss, kl = elbo(logits, batch.occupancies, q, self.trainer.datamodule.points)
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
        measured = found.measured | {"net_iou": net_iou}
        if self.resolutions:
            true = truth_of(batch)
            for n in self.resolutions:
                occupied = voxels_of(true.surface, true.normals, n)
                measured[f"voxel_iou_at_{n}"] = iou(look_up(occupied, true.points), true.inside)
        return found._replace(measured=measured, at={n: march(thinned(grid, n), self.level) for n in self.resolutions})

    def extract(self, c: Tensor, z: Tensor, seed: int = 0) -> tuple[Reconstruction, Grid]:
        """The mesh of the shape with these codes, (1, c_dim) and (1, z_dim), and the grid that it came from."""
        field = self.field(c, z)
        started = time.perf_counter()
        grid = mise(
            lambda places: self.evaluate(torch.as_tensor(places, device=self.device), field),
            self.level,
            self.resolution,
            self.resolution_0,
        )
        evaluated = time.perf_counter()
        mesh = march(grid, self.level)
        if self.simplify_to and not mesh.empty:
            mesh = simplify(mesh, self.simplify_to)
        with torch.inference_mode(False):  # a test runs in inference mode, and here gradients are needed
            smooth = self.field(c.clone(), z.clone())
            mesh = refine(mesh, smooth, float(self.threshold), self.refine_steps, seed=seed, device=self.device)
            if self.normals and not mesh.empty:
                mesh = mesh._replace(normals=field_normals(mesh.vertices, smooth, CHUNK, self.device))
        measured = {
            "evaluated": grid.evaluated / grid.values.size,
            "faces": float(len(mesh.faces)),
            "field_seconds": evaluated - started,
            "mesh_seconds": time.perf_counter() - evaluated,
        }
        return Reconstruction(mesh, measured=measured), grid

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.network.z_dim and self.network.encoder is None:
            codes = self.network.prior(self.generate).to(self.device)
            empty = codes.new_zeros(1, 0)
            self.generated = [self.extract(empty, z[None])[0].mesh for z in codes]

    def figures(self) -> dict[str, Any]:
        from methods.occnet.figures import by_resolution, gallery_of, refinement, slices

        drawn = super().figures()
        if self.extracted:
            grid, mesh = self.extracted
            drawn |= {"refinement": refinement(grid, mesh), "slices": slices(grid, self.level)}
        if self.resolutions and self.means:
            drawn["resolution"] = by_resolution(self.means, self.resolutions)
        if self.generated:
            drawn["generated"] = gallery_of(self.generated)
        return drawn

    @staticmethod
    @torch.no_grad()
    def evaluate(points: Tensor, field: Any) -> np.ndarray:
        """(n, 3) -> (n,) float32, CHUNK points at a time."""
        return torch.cat([field(part) for part in points.split(CHUNK)]).float().cpu().numpy()


def elbo(
    logits: Tensor, occupancies: Tensor, q: Normal | None, points: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Mean over the shapes of the cross-entropy summed over the points, plus KL(q || N(0, 1)), and that KL alone.

    logits, occupancies: (B, T). q: over (B, z_dim), or None (paper, equations 2 and 3). points: the sum is of so many
    points alike; None: of T.
    """
    entropies = binary_cross_entropy_with_logits(logits, occupancies, reduction="none")
    loss = entropies.mean(1).mean() * points if points else entropies.sum(1).mean()
    if q is None:
        return loss, None
    kl = kl_divergence(q, Normal(torch.zeros_like(q.mean), torch.ones_like(q.stddev))).sum(1).mean()
    return loss + kl, kl
