"""What needs no training: voxels of the true shape, and solids spanned by an input cloud."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from methods.occnet.evaluation import Reconstruction, truth_of
from methods.occnet.solid import alpha_shape, convex_hull, voxels_of
from methods.occnet.surface import Mesh, blocky
from methods.occnet.task import ShapeReconstruction


class Voxels(ShapeReconstruction):
    """The true shape's voxels as a blocky mesh: the row `Input` of the paper's table 3, the limit of a voxel method.

    Args:
        resolution: voxels a side of the unit cube. At 32 the data's own voxels are taken; at others a voxel is occupied
            where its centre lies inside, told by the stored points of the surface (see `voxels_of`).
        resolutions: others at which the IoU is measured too (`test/iou_at_<n>`).
        The others: as of `ShapeReconstruction`.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        resolution: int = 32,
        resolutions: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min([resolution, *resolutions]) < 1:
            raise ValueError(
                f"method.resolution and method.resolutions must be positive, got {resolution} and {resolutions}"
            )
        self.resolution, self.resolutions = resolution, list(resolutions)

    def reconstruct(self, batch: Any) -> Reconstruction:
        return Reconstruction(self.mesh(batch, self.resolution), at={n: self.mesh(batch, n) for n in self.resolutions})

    @staticmethod
    def mesh(batch: Any, resolution: int) -> Mesh:
        if batch.voxels is not None and batch.voxels.shape[-1] == resolution:
            return blocky(batch.voxels[0].cpu().numpy() > 0.5)
        true = truth_of(batch)
        return blocky(voxels_of(true.surface, true.normals, resolution))


class Hull(ShapeReconstruction):
    """The solid that an input cloud spans: an alpha shape, which is the convex hull where alpha is infinite.

    Args:
        alpha: greatest radius of the sphere around a tetrahedron of the Delaunay triangulation that belongs to the
            solid, in edges of the unit cube.
        The others: as of `ShapeReconstruction`.
    """

    def __init__(self, network: nn.Module | None = None, alpha: float = math.inf, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not alpha > 0:
            raise ValueError(f"method.alpha must be positive, got {alpha}")
        self.alpha = alpha

    def prepare(self, data: Any) -> None:
        if data.inputs != "pointcloud":
            raise ValueError(f"this method spans a cloud of points; dataset.inputs is {data.inputs}")

    def reconstruct(self, batch: Any) -> Reconstruction:
        points = batch.inputs[0].cpu().numpy().astype(np.float64)
        return Reconstruction(convex_hull(points) if math.isinf(self.alpha) else alpha_shape(points, self.alpha))
