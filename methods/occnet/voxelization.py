"""Reference without training: the voxels of the true shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from methods.occnet.base import ShapeReconstruction
from methods.occnet.evaluation import Reconstruction, ground_truth
from methods.occnet.mesh import Mesh, voxel_mesh
from methods.occnet.occupancy import voxelize_samples


class Voxelization(ShapeReconstruction):
    """Voxels of the true shape as a mesh: the row `Input` of table 3, and the limit of a voxel method.

    Args:
        network: not used.
        resolution: voxels per axis of the unit cube. At 32 the voxels of the data are taken; at others a voxel is
            occupied if its center lies inside, by the stored points of the surface (see `voxelize_samples`).
        resolutions: further resolutions n at which the IoU is measured (`test/iou_at_<n>`).
        **kwargs: arguments of `ShapeReconstruction`.
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
        """Return the boundary of the occupied voxels, at all resolutions."""
        return Reconstruction(
            self.mesh(batch, self.resolution), meshes_at={n: self.mesh(batch, n) for n in self.resolutions}
        )

    @staticmethod
    def mesh(batch: Any, resolution: int) -> Mesh:
        """Return the boundary of the occupied voxels of the only shape of a batch."""
        if batch.voxels is not None and batch.voxels.shape[-1] == resolution:
            return voxel_mesh(batch.voxels[0].cpu().numpy() > 0.5)
        truth = ground_truth(batch)
        return voxel_mesh(voxelize_samples(truth.surface, truth.normals, resolution))
