"""Training of Pixel2Mesh (Wang et al., ECCV 2018), as the paper compares with it."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from datasets.checks import check_not_negative, check_positive
from methods.occnet.base import TrainedReconstruction
from methods.occnet.chamfer import nearest_index
from methods.occnet.conditioned import check_network
from methods.occnet.evaluation import Reconstruction
from methods.occnet.mesh import Mesh
from methods.occnet.pix2mesh_network import MeshNetwork, Stage

TARGETS = 8000  # true surface points that the loss uses at most, the first ones


class Pixel2Mesh(TrainedReconstruction):
    """Pixel2Mesh: a sphere deformed in the frame of the camera; meshes are transformed back to the frame of the shape.

    The loss is a sum over the three blocks of the network (Wang et al. 2018, with the weights of the official code of
    Occupancy Networks):

        chamfer * (mean squared distance of the true points to the nearest vertex, and 0.55 times that of the vertices
                   to the nearest true point)
        edge * mean squared length of the edges
        normal * mean |<n, e>|, of the edges e and the true normals n next to either of their vertices
        laplacian * mean squared change of the Laplacian coordinates of the vertices in the block, times 0.3 in the
                    first block
        move * mean squared movement of the vertices in the block, but for the first

    All weights but that of the normals are multiplied by unit^2. Lengths are in edges of the unit cube, where the
    paper's are in the unit of each mesh file, in which the edges of ShapeNet are shorter than 1. Means over edges are
    7/6 of the authors', whose list of edges also pairs each vertex with itself.

    Metrics besides those of `TrainedReconstruction`: the terms without weights, `train/chamfer`, `val/chamfer` and
    likewise `edge`, `normal`, `laplacian`, `move`.

    Args:
        network: a `MeshNetwork`.
        chamfer: weight of the Chamfer distance.
        edge: weight of the edge lengths.
        normal: weight of the normals.
        laplacian: weight of the Laplacian coordinates.
        move: weight of the movement.
        unit: length in Pixel2Mesh's own data, for which the weights were chosen, of what has length 1 in the paper's.
        **kwargs: arguments of `TrainedReconstruction`.
    """

    network: MeshNetwork

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
        check_not_negative("method", **weights)
        check_positive("method", unit=unit)
        self.weights = {name: weight * (1 if name == "normal" else unit**2) for name, weight in weights.items()}

    def prepare(self, data: Any) -> None:
        """Check that the cameras of all images are known.

        Raises:
            ValueError: if they are not.
        """
        if any(shapes.cameras is None for shapes in data.parts.values()):
            raise ValueError("this method needs images with known cameras: cameras.npz beside those of each shape")

    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss and its terms without weights."""
        stages = self.network(batch.inputs, batch.intrinsics)
        with torch.autocast(self.device.type, enabled=False):  # distances need full precision
            surface = to_camera_frame(batch.surface[:, :TARGETS], batch.cameras)
            normals = batch.normals[:, :TARGETS] @ batch.cameras[..., :3].mT
            blocks = [self.block_terms(number, stage, surface, normals) for number, stage in enumerate(stages)]
        terms = {name: reduce(torch.add, [block[name] for block in blocks]) for name in self.weights}
        total = reduce(torch.add, [weight * terms[name] for name, weight in self.weights.items()])
        return {"loss": total} | terms

    def block_terms(self, number: int, stage: Stage, surface: Tensor, normals: Tensor) -> dict[str, Tensor]:
        """Return the terms of a block without weights.

        Args:
            number: number of the block.
            stage: vertices before and after the block.
            surface: true surface points (B, S, 3) in the frame of the camera.
            normals: true normals (B, S, 3) in the frame of the camera.
        """
        vertices, edges = stage.after.float(), self.network.edges(number)
        nearest = torch.stack([nearest_index(x, y) for x, y in zip(vertices, surface, strict=True)])
        rows = torch.arange(len(nearest), device=nearest.device)[:, None]
        nearest_vertices = torch.stack([x[nearest_index(y, x)] for x, y in zip(vertices, surface, strict=True)])
        to_surface = (vertices - surface[rows, nearest]).square().sum(-1).mean()
        to_vertices = (surface - nearest_vertices).square().sum(-1).mean()
        change = laplacian_coordinates(vertices, edges) - laplacian_coordinates(stage.before, edges)
        laplacian = change.square().sum(-1).mean()
        move = (vertices - stage.before).square().sum(-1).mean()
        return {
            "chamfer": to_vertices + 0.55 * to_surface,
            "edge": squared_edge_length(vertices, edges),
            "normal": edge_normal_cosine(vertices, edges, normals[rows, nearest]),
            "laplacian": laplacian if number else 0.3 * laplacian,
            "move": move if number else torch.zeros_like(move),
        }

    def reconstruct(self, batch: Any) -> Reconstruction:
        """Return the mesh of the last block in the frame of the shape.

        Raises:
            ValueError: the camera of the picture is not known.
        """
        if batch.cameras is None:
            raise ValueError("Pixel2Mesh needs the camera of each picture, which a picture alone does not have")
        vertices = from_camera_frame(self.network(batch.inputs, batch.intrinsics)[-1].after, batch.cameras)[0]
        return Reconstruction(Mesh(vertices.cpu().numpy(), self.network.faces))


def to_camera_frame(points: Tensor, cameras: Tensor) -> Tensor:
    """Transform points (B, n, 3) of the shape to the frame of the camera [R | t] (B, 3, 4)."""
    return points @ cameras[..., :3].mT + cameras[:, None, :, 3]


def from_camera_frame(points: Tensor, cameras: Tensor) -> Tensor:
    """Invert `to_camera_frame`."""
    return torch.linalg.solve(cameras[..., :3], (points - cameras[:, None, :, 3]).mT).mT


def squared_edge_length(vertices: Tensor, edges: Tensor) -> Tensor:
    """Return the mean squared length of the edges (E, 2) between vertices (B, V, 3)."""
    return (vertices[:, edges[:, 0]] - vertices[:, edges[:, 1]]).square().sum(-1).mean()


def edge_normal_cosine(vertices: Tensor, edges: Tensor, normals: Tensor) -> Tensor:
    """Return the mean |<n, e>| of the unit vector e of each edge and the unit normals n of both its vertices.

    Args:
        vertices: positions (B, V, 3).
        edges: vertex indices (E, 2).
        normals: normals of the vertices (B, V, 3).
    """
    directions = normalize(vertices[:, edges[:, 0]] - vertices[:, edges[:, 1]], dim=-1)
    return (directions[:, :, None] * normalize(normals, dim=-1)[:, edges]).sum(-1).abs().mean()


def laplacian_coordinates(vertices: Tensor, edges: Tensor) -> Tensor:
    """Return each vertex less the mean of its neighbours, (B, V, 3), for edges (E, 2)."""
    to, other = torch.cat([edges, edges.flip(1)]).T
    count = torch.bincount(to, minlength=vertices.shape[1])
    total = torch.zeros_like(vertices).index_add(1, to, vertices[:, other])
    return vertices - total / count[:, None]
