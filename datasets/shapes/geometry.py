"""Triangle meshes as arrays: vertices (V, 3) float64, faces (F, 3) int64, counter-clockwise seen from outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BOX = 0.55  # points are drawn from [-BOX, BOX]^3: the unit cube and a tenth of it around


def voxel_centres(resolution: int) -> Array:
    """Of the voxels of the unit cube around the origin: (resolution^3, 3), the last axis running fastest."""
    steps = (np.arange(resolution) + 0.5) / resolution - 0.5
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
