"""Occupancy Networks: occupancy learned as a function of space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from datasets.checks import check_count, check_positive
from methods.occnet.base import TrainedReconstruction
from methods.occnet.conditioned import check_network
from methods.occnet.evaluation import Reconstruction, ground_truth
from methods.occnet.extraction import check_simplification, field_normals, marching_cubes, refine, simplify
from methods.occnet.mesh import Mesh
from methods.occnet.metrics import iou, iou_by_threshold
from methods.occnet.mise import Grid, mise, subsample_grid, upsampling_steps
from methods.occnet.occupancy import lookup_voxels, voxelize_samples
from methods.occnet.occupancy_network import OccupancyNetwork

CHUNK = 100_000  # points that go through the decoder at once
POSTERIOR_POINTS = 2048  # points from which a latent code is inferred in validation and test


class OccupancyNetworks(TrainedReconstruction):
    """The paper's method: binary cross-entropy of the occupancy at drawn points; meshes by MISE.

    A network with a latent code is trained as a variational autoencoder: its loss is the cross-entropy plus KL(q ||
    N(0, 1)) (paper, equation 3). In validation and test the code of a shape is the mean of q, inferred from 2,048 of
    its points, and the figures also show shapes generated from the prior.

    Metrics besides those of `TrainedReconstruction`: `train/iou` and `val/iou` (of the network itself, at the points),
    `val/kl`, `val/threshold` (with `tune_threshold`), `test/net_iou` (of the network, where `test/iou` is that of the
    mesh), `test/evaluated` (points that MISE evaluated, as a share of the dense grid), `test/faces`, and seconds per
    shape: `test/field_seconds` (MISE with all evaluations) and `test/mesh_seconds` (marching cubes and what follows).

    Args:
        network: an `OccupancyNetwork`.
        threshold: probability tau at the surface (paper: 0.2).
        tune_threshold: after every validation, take the threshold of 0.05, 0.1, ..., 0.95 with the highest IoU on the
            validation shapes; it is stored with the weights.
        val_points: stored points of each shape that a validation uses, the first ones; None: all.
        resolution: cells per axis of the finest grid, a power of two times `resolution_0`.
        resolution_0: cells per axis of the first grid.
        resolutions: divisors n of `resolution` at which the IoU of the mesh is measured too (`test/iou_at_<n>`), beside
            that of n^3 voxels of the true shape (`test/voxel_iou_at_<n>`). The field is not evaluated again.
        simplify: number of faces that meshes are reduced to; None: no reduction.
        refine_steps: steps of the refinement by the gradient.
        vertex_normals: give the vertices of the meshes the normals of the field.
        num_generated: number of shapes drawn from the prior for the figures.
        monitor: metric that selects the weights.
        **kwargs: arguments of `TrainedReconstruction`.
    """

    network: OccupancyNetwork
    threshold: Tensor
    thresholds: Tensor

    def __init__(
        self,
        network: nn.Module,
        threshold: float = 0.2,
        tune_threshold: bool = False,
        val_points: int | None = None,
        resolution: int = 128,
        resolution_0: int = 32,
        resolutions: Sequence[int] = (),
        simplify: int | None = None,
        refine_steps: int = 0,
        vertex_normals: bool = False,
        num_generated: int = 8,
        monitor: str | None = "val/iou",
        **kwargs: Any,
    ) -> None:
        super().__init__(network, monitor=monitor, **kwargs)
        check_network(network, OccupancyNetwork, "onet")
        check_positive("method", val_points=val_points)
        check_count("method", num_generated=num_generated)
        _check_threshold(threshold)
        _check_extraction(resolution, resolution_0, resolutions, simplify, refine_steps)
        self.tune_threshold, self.val_points, self.num_generated = tune_threshold, val_points, num_generated
        self.resolution, self.resolution_0, self.resolutions = resolution, resolution_0, list(resolutions)
        self.simplify_faces, self.refine_steps, self.vertex_normals = simplify, refine_steps, vertex_normals
        candidates = torch.arange(1, 20) / 20 if tune_threshold else torch.tensor([threshold])
        self.register_buffer("thresholds", candidates, persistent=False)
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self.first_extraction: tuple[Grid, Mesh] | None = None  # of the first test shape, for the figures
        self.generated: list[Mesh] = []

    @property
    def logit_threshold(self) -> float:
        """Return the threshold as a logit."""
        tau = float(self.threshold)
        return math.log(tau) - math.log1p(-tau)

    def forward(self, batch: Any) -> tuple[Tensor, Normal | None]:
        """Return logits (B, T) at the points of a batch, and q(z).

        z is drawn from q in training; otherwise it is the mean of q.
        """
        c = self.network.encode(batch.inputs)
        q = self.network.infer_z(batch.points, batch.occupancies, c) if self.training else self.posterior(batch, c)
        return self.network.decoder(batch.points, self.latent_code(q, batch), c), q

    def latent_code(self, q: Normal | None, batch: Any) -> Tensor:
        """Return latent codes (B, z_dim); z_dim is 0 without latent code."""
        if q is None:
            return batch.points.new_zeros(len(batch.points), 0)
        return q.rsample() if self.training else q.mean

    def posterior(self, batch: Any, c: Tensor) -> Normal | None:
        """Return q(z), inferred from the first points of each shape."""
        first = slice(POSTERIOR_POINTS)
        return self.network.infer_z(batch.points[:, first], batch.occupancies[:, first], c)

    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss, the IoU in training, and the KL divergence of a generative model."""
        logits, q = self(batch)
        loss, kl = negative_elbo(logits, batch.occupancies, q)
        metrics = {"loss": loss}
        if self.training:
            inside = batch.occupancies > 0.5
            predicted = logits >= self.logit_threshold
            union = (inside | predicted).sum(1)
            metrics["iou"] = ((inside & predicted).sum(1) / union.clamp(min=1)).masked_fill(union == 0, 1.0).mean()
        if kl is not None:
            metrics["kl"] = kl
        return metrics

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the IoU by threshold."""
        self.iou_sums = torch.zeros(len(self.thresholds) + 1, device=self.device)  # and the number of shapes

    def validation_step(self, batch: Any, number: int) -> None:
        """Log the loss of a shape and add up its IoU by threshold."""
        batch = batch._replace(
            points=batch.points[:, : self.val_points], occupancies=batch.occupancies[:, : self.val_points]
        )
        logits, q = self(batch)
        loss, kl = negative_elbo(logits, batch.occupancies, q, self.trainer.datamodule.points)  # type: ignore[attr-defined]
        self.log_split("val", {"loss": loss} | ({} if kl is None else {"kl": kl}), 1)
        probabilities = logits.float().sigmoid()[0]
        self.iou_sums[:-1] += iou_by_threshold(probabilities, batch.occupancies[0] > 0.5, self.thresholds)
        self.iou_sums[-1] += 1

    def on_validation_epoch_end(self) -> None:
        """Log the IoU and tune the threshold."""
        gathered = self.all_gather(self.iou_sums)
        assert isinstance(gathered, Tensor)
        total = gathered.view(-1, len(self.iou_sums)).sum(0)
        mean = total[:-1] / total[-1]
        if self.tune_threshold:
            self.threshold.copy_(self.thresholds[mean.argmax()])
            self.log("val/threshold", self.threshold)
        self.log("val/iou", mean.max())

    def field(self, c: Tensor, z: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function from points (n, 3) to logits (n,) for the codes of one shape."""
        return lambda points: self.network.decoder(points[None], z, c)[0]

    def reconstruct(self, batch: Any) -> Reconstruction:
        """Return the mesh of a shape, with metrics of the network and meshes at other resolutions."""
        c = self.network.encode(batch.inputs)
        z = self.latent_code(self.posterior(batch, c), batch)
        prediction, grid = self.extract(c, z, seed=int(batch.index))
        inside = self.evaluate(batch.points[0], self.field(c, z)) >= self.logit_threshold
        if self.first_extraction is None and prediction.mesh is not None:
            self.first_extraction = grid, prediction.mesh
        net_iou = iou(inside, batch.occupancies[0].cpu().numpy() > 0.5)
        metrics = {**prediction.metrics, "net_iou": net_iou} | self._voxel_ious(batch)
        meshes = {n: marching_cubes(subsample_grid(grid, n), self.logit_threshold) for n in self.resolutions}
        return prediction._replace(metrics=metrics, meshes_at=meshes)

    def _voxel_ious(self, batch: Any) -> dict[str, float]:
        """Return the IoU of voxels of the true shape, at all resolutions."""
        if not self.resolutions:
            return {}
        truth = ground_truth(batch)
        occupied = {n: voxelize_samples(truth.surface, truth.normals, n) for n in self.resolutions}
        return {f"voxel_iou_at_{n}": iou(lookup_voxels(v, truth.points), truth.inside) for n, v in occupied.items()}

    def extract(self, c: Tensor, z: Tensor, seed: int = 0) -> tuple[Reconstruction, Grid]:
        """Extract the mesh of a shape.

        Args:
            c: code of the input (1, c_dim).
            z: latent code (1, z_dim).
            seed: seed of the refinement.

        Returns:
            The mesh with its metrics, and the grid that it was made from.
        """
        field = self.field(c, z)
        started = time.perf_counter()
        grid = mise(
            lambda points: self.evaluate(torch.as_tensor(points, device=self.device), field),
            self.logit_threshold,
            self.resolution,
            self.resolution_0,
        )
        evaluated = time.perf_counter()
        mesh = marching_cubes(grid, self.logit_threshold)
        if self.simplify_faces and not mesh.empty:
            mesh = simplify(mesh, self.simplify_faces)
        with torch.inference_mode(False):  # a test runs in inference mode, which has no gradients
            smooth = self.field(c.clone(), z.clone())
            mesh = refine(mesh, smooth, float(self.threshold), self.refine_steps, seed=seed, device=self.device)
            if self.vertex_normals and not mesh.empty:
                mesh = mesh._replace(normals=field_normals(mesh.vertices, smooth, CHUNK, self.device))
        metrics = {
            "evaluated": grid.evaluated / grid.values.size,
            "faces": float(len(mesh.faces)),
            "field_seconds": evaluated - started,
            "mesh_seconds": time.perf_counter() - evaluated,
        }
        return Reconstruction(mesh, metrics=metrics), grid

    def on_test_epoch_end(self) -> None:
        """Log the scores and generate shapes from the prior, if there is one."""
        super().on_test_epoch_end()
        if self.network.z_dim and self.network.encoder is None:
            codes = self.network.sample_prior(self.num_generated).to(self.device)
            empty = codes.new_zeros(1, 0)
            meshes = [self.extract(empty, z[None])[0].mesh for z in codes]
            self.generated = [mesh for mesh in meshes if mesh is not None]

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run by name."""
        from methods.occnet.figures import plot_field_slices, plot_iou_by_resolution, plot_meshes, plot_refinement

        figures = super().figures()
        if self.first_extraction:
            grid, mesh = self.first_extraction
            figures["refinement"] = plot_refinement(grid, mesh)
            figures["slices"] = plot_field_slices(grid, self.logit_threshold)
        if self.resolutions and self.means:
            figures["resolution"] = plot_iou_by_resolution(self.means, self.resolutions)
        if self.generated:
            figures["generated"] = plot_meshes(self.generated)
        return figures

    @staticmethod
    @torch.no_grad()
    def evaluate(points: Tensor, field: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Evaluate a field at points (n, 3), CHUNK of them at a time: (n,) float32."""
        return torch.cat([field(part) for part in points.split(CHUNK)]).float().cpu().numpy()


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise ValueError(f"method.threshold is a probability between 0 and 1, got {threshold}")


def _check_extraction(
    resolution: int, resolution_0: int, resolutions: Sequence[int], simplify: int | None, refine_steps: int
) -> None:
    upsampling_steps(resolution, resolution_0)
    if odd := [n for n in resolutions if n < 1 or resolution % n]:
        raise ValueError(f"method.resolutions must divide method.resolution={resolution}; these do not: {odd}")
    if refine_steps < 0 or (simplify is not None and simplify < 4):
        raise ValueError(
            "method.refine_steps must not be negative and method.simplify at least 4, "
            f"got {refine_steps} and {simplify}"
        )
    if simplify is not None:
        check_simplification()


def negative_elbo(
    logits: Tensor, occupancies: Tensor, q: Normal | None, points: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the mean over the shapes of the cross-entropy summed over the points, plus KL(q || N(0, 1)), and that KL.

    Paper, equations 2 and 3.

    Args:
        logits: logits (B, T).
        occupancies: occupancies (B, T).
        q: distribution over (B, z_dim), or None without latent code.
        points: scale the sum to so many points; None: to T.
    """
    entropies = binary_cross_entropy_with_logits(logits, occupancies, reduction="none")
    loss = entropies.mean(1).mean() * points if points else entropies.sum(1).mean()
    if q is None:
        return loss, None
    kl = kl_divergence(q, Normal(torch.zeros_like(q.mean), torch.ones_like(q.stddev))).sum(1).mean()
    return loss + kl, kl
