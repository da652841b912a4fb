"""What the paper compares with: 3D-R2N2, PSGN and AtlasNet, trained with the same encoders, and Pixel2Mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from methods.occnet.evaluation import Reconstruction
from methods.occnet.metrics import iou
from methods.occnet.network import PatchNetwork, PointSetNetwork, VoxelNetwork
from methods.occnet.pix2mesh import (
    MeshNetwork,
    Stage,
    along_normals,
    edge_length,
    from_camera,
    laplacian,
    to_camera,
)
from methods.occnet.solid import look_up
from methods.occnet.surface import Mesh, blocky
from methods.occnet.task import Training

TARGETS = 8000  # true points that Pixel2Mesh's loss uses at most, the first ones


class VoxelTraining(Training):
    """3D-R2N2: mean binary cross-entropy of the voxels of the unit cube. Meshes are the boundary of the occupied ones.

    Metrics besides those of `Training`: `val/iou`, `test/net_iou`: of the voxels, looked up at the points.

    Args:
        threshold: of a voxel's probability (official code: 0.4). The others: as of `Training`.
    """

    def __init__(
        self, network: nn.Module, threshold: float = 0.4, monitor: str | None = "val/iou", **kwargs: Any
    ) -> None:
        super().__init__(network, monitor=monitor, **kwargs)
        check_network(network, VoxelNetwork, "r2n2")
        if not 0 < threshold < 1:
            raise ValueError(f"method.threshold is a probability between 0 and 1, got {threshold}")
        self.threshold = threshold

    def measure(self, batch: Any) -> dict[str, Tensor]:
        if batch.voxels is None:
            raise ValueError("the shapes come without voxels, which this method trains on")
        logits = self.network(batch.inputs)
        metrics = {"loss": binary_cross_entropy_with_logits(logits, batch.voxels)}
        if not self.training:
            occupied = (logits[0].sigmoid() >= self.threshold).cpu().numpy()
            metrics["iou"] = torch.tensor(point_iou(occupied, batch))
        return metrics

    def reconstruct(self, batch: Any) -> Reconstruction:
        occupied = (self.network(batch.inputs)[0].sigmoid() >= self.threshold).cpu().numpy()
        return Reconstruction(blocky(occupied), measured={"net_iou": point_iou(occupied, batch)})


class PointSetTraining(Training):
    """PSGN: the Chamfer distance, squared, of the network's points to points on the surface. It has no surface.

    Args: as of `Training`.
    """

    def __init__(self, network: nn.Module, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        check_network(network, PointSetNetwork, "psgn")

    def measure(self, batch: Any) -> dict[str, Tensor]:
        return {"loss": chamfer_squared(self.network(batch.inputs), targets(batch)).mean()}

    def reconstruct(self, batch: Any) -> Reconstruction:
        return Reconstruction(None, self.network(batch.inputs)[0].cpu().numpy(), closed=False)


class PatchTraining(Training):
    """AtlasNet: the Chamfer distance, squared, of points drawn on all patches. Its mesh is open, so it has no IoU.

    Args:
        points: drawn on the patches, divided among them. side: of the square grid of vertices that each patch's mesh
        has. The others: as of `Training`.
    """

    def __init__(self, network: nn.Module, points: int = 2500, side: int = 10, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        check_network(network, PatchNetwork, "atlasnet")
        if points < network.patches or side < 2:
            raise ValueError(
                f"method.points must be at least model.patches={network.patches} and method.side at least 2, "
                f"got {points} and {side}"
            )
        self.per_patch, self.side = points // network.patches, side

    def measure(self, batch: Any) -> dict[str, Tensor]:
        size = (len(batch.index), self.network.patches, self.per_patch, 2)
        if self.training:
            uv = torch.rand(size).to(self.device)
        else:
            generator = torch.Generator().manual_seed(int(batch.index[0]))
            uv = torch.rand(size, generator=generator).to(self.device)
        points = self.network(uv, batch.inputs).flatten(1, 2)
        return {"loss": chamfer_squared(points, targets(batch)).mean()}

    def reconstruct(self, batch: Any) -> Reconstruction:
        uv, faces = grid_patch(self.side)
        patches = self.network.patches
        vertices = self.network(uv.to(self.device).expand(1, patches, -1, 2), batch.inputs)[0].flatten(0, 1)
        first = np.arange(patches)[:, None, None] * len(uv)
        return Reconstruction(Mesh(vertices.cpu().numpy(), (first + faces).reshape(-1, 3)), closed=False)


class MeshTraining(Training):
    """Pixel2Mesh: a sphere bent in the frame of the picture's camera, whose meshes are turned back to the shape's.

    The loss is a sum over the three blocks of the network (Wang et al. 2018, with the weights of the paper's official
    code):

        chamfer * (mean squared distance of the true points to the nearest vertex, and 0.55 times that of the vertices
                   to the nearest true point)
        edge * mean squared length of the edges
        normal * mean |<n, e>|, of the edges e and the true normals n next to either of their vertices
        laplacian * mean squared change of the vertices' Laplacian coordinates in the block, 0.3 times that of the first
        move * mean squared way of the vertices in the block, but for the first

    All weights but that of the normals are multiplied by unit^2. Lengths are in edges of the unit cube, where the
    paper's are in the unit of each mesh's file, in which ShapeNet's edges are shorter than 1. Means over edges are 7/6
    of the authors', whose list of edges has each vertex with itself too.

    Metrics besides those of `Training`: `train/chamfer`, `val/chamfer` and likewise `edge`, `normal`, `laplacian`,
    `move`: the sums without weights.

    Args:
        chamfer, edge, normal, laplacian, move: weights. unit: length in Pixel2Mesh's own data, for which the weights
            were chosen, of what has length 1 in the paper's. The others: as of `Training`.
    """

    def __init__(
        self,
        network: nn.Module,
        chamfer: float = 3000.0,
        edge: float = 300.0,
        normal: float = 0.5,
        laplacian: float = 1500.0,
        move: float = 100.0,
        unit: float = 0.57,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        check_network(network, MeshNetwork, "pix2mesh")
        weights = {"chamfer": chamfer, "edge": edge, "normal": normal, "laplacian": laplacian, "move": move}
        if negative := [name for name, weight in weights.items() if weight < 0]:
            raise ValueError(f"method.{negative[0]} must not be negative, got {weights[negative[0]]}")
        if unit <= 0:
            raise ValueError(f"method.unit must be positive, got {unit}")
        self.weights = {name: weight * (1 if name == "normal" else unit**2) for name, weight in weights.items()}

    def prepare(self, data: Any) -> None:
        if any(shapes.cameras is None for shapes in data.parts.values()):
            raise ValueError(
                "this method needs pictures whose cameras are known: cameras.npz beside those of each shape"
            )

    def measure(self, batch: Any) -> dict[str, Tensor]:
        stages = self.network(batch.inputs, batch.intrinsics)
        with torch.autocast(self.device.type, enabled=False):  # distances need all digits
            surface = to_camera(batch.surface[:, :TARGETS], batch.cameras)
            normals = batch.normals[:, :TARGETS] @ batch.cameras[..., :3].mT
            blocks = [self.terms(number, stage, surface, normals) for number, stage in enumerate(stages)]
        terms = {name: sum(block[name] for block in blocks) for name in self.weights}
        return {"loss": sum(weight * terms[name] for name, weight in self.weights.items())} | terms

    def terms(self, number: int, stage: Stage, surface: Tensor, normals: Tensor) -> dict[str, Tensor]:
        """What block `number` adds to the loss, without weights. surface, normals: (B, S, 3), of the camera's frame."""
        vertices, edges = stage.after.float(), self.network.edges(number)
        nearest = torch.stack([nearest_of(x, y) for x, y in zip(vertices, surface, strict=True)])
        rows = torch.arange(len(nearest), device=nearest.device)[:, None]
        covered = torch.stack([x[nearest_of(y, x)] for x, y in zip(vertices, surface, strict=True)])
        away = (vertices - surface[rows, nearest]).square().sum(-1).mean()
        missed = (surface - covered).square().sum(-1).mean()
        bent = (laplacian(vertices, edges) - laplacian(stage.before, edges)).square().sum(-1).mean()
        moved = (vertices - stage.before).square().sum(-1).mean()
        return {
            "chamfer": missed + 0.55 * away,
            "edge": edge_length(vertices, edges),
            "normal": along_normals(vertices, edges, normals[rows, nearest]),
            "laplacian": bent if number else 0.3 * bent,
            "move": moved if number else torch.zeros_like(moved),
        }

    def reconstruct(self, batch: Any) -> Reconstruction:
        vertices = from_camera(self.network(batch.inputs, batch.intrinsics)[-1].after, batch.cameras)[0]
        return Reconstruction(Mesh(vertices.cpu().numpy(), self.network.faces))


def point_iou(occupied: np.ndarray, batch: Any) -> float:
    """IoU of voxels (R, R, R) with the one shape of a batch, on its points."""
    return iou(look_up(occupied, batch.points[0].cpu().numpy()), batch.occupancies[0].cpu().numpy() > 0.5)


def chamfer_squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance to the nearest point, of a's to b's plus of b's to a's: (B,). (B, n, 3), (B, m, 3)."""
    there = torch.stack([x - y[nearest_of(x, y)] for x, y in zip(a, b, strict=True)])
    back = torch.stack([y - x[nearest_of(y, x)] for x, y in zip(a, b, strict=True)])
    return there.square().sum(-1).mean(1) + back.square().sum(-1).mean(1)


@torch.no_grad()
def nearest_of(points: Tensor, to: Tensor) -> Tensor:
    """Which of `to` (m, 3) is nearest to each of the points (n, 3): (n,). A shape at a time it stays in the cache."""
    return torch.addmm(to.square().sum(1), points, to.T, alpha=-2).argmin(1)


def targets(batch: Any) -> Tensor:
    """Points on the true surface, (B, S, 3); of all that a validation has, the first 2,048."""
    if batch.surface is None:
        raise ValueError("the shapes come without points on their surface, which this method trains on")
    return batch.surface if len(batch.surface) > 1 else batch.surface[:, :2048]


def grid_patch(side: int) -> tuple[Tensor, np.ndarray]:
    """A square of side x side vertices: their (u, v) in [0, 1], (side^2, 2), and triangles, (2 (side - 1)^2, 3)."""
    axis = torch.linspace(0, 1, side)
    uv = torch.cartesian_prod(axis, axis)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    low = np.stack([corner, corner + side, corner + side + 1], axis=1)
    high = np.stack([corner, corner + side + 1, corner + 1], axis=1)
    return uv, np.concatenate([low, high])


def check_network(network: nn.Module, wanted: type[nn.Module], model: str) -> None:
    if not isinstance(network, wanted):
        raise ValueError(f"this method trains a {wanted.__name__}, not a {type(network).__name__}: model={model}")
