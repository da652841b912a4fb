"""Occupancy without a network: from samples of a surface with normals, and from voxels."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label, minimum_position
from scipy.spatial import cKDTree

from datasets.shapes.geometry import voxel_centers

VOTES = 5  # nearest samples that vote on whether a point is inside
SUBSAMPLE, FAR = 4000, 0.08  # number of samples that find points farther than this from the surface


def inside_from_samples(surface: np.ndarray, normals: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return whether points lie inside a surface that is known by samples.

    The nearest samples vote, each by the side of its tangent plane that the point is on, in proportion to the distance
    from that plane.

    Args:
        surface: samples (m, 3).
        normals: outward unit normals (m, 3).
        points: points (n, 3).

    Returns:
        Booleans (n,).
    """
    _, index = cKDTree(surface).query(points, k=VOTES)
    towards = points[:, None] - surface[index]
    return np.einsum("nki,nki->nk", towards, normals[index]).sum(1) < 0


def voxelize_samples(surface: np.ndarray, normals: np.ndarray, resolution: int) -> np.ndarray:
    """Return which voxels of the unit cube have their center inside, by `inside_from_samples`.

    Each connected component of voxels far from the surface is classified by its voxel nearest to the surface, since
    nearest neighbours of points far from the samples are slow to find.

    Args:
        surface: samples (m, 3) in random order.
        normals: outward unit normals (m, 3).
        resolution: voxels per axis R.

    Returns:
        Occupancy (R, R, R).
    """
    centers = voxel_centers(resolution)
    subset = surface[:: max(1, len(surface) // SUBSAMPLE)]
    distance = cKDTree(subset).query(centers)[0].reshape((resolution,) * 3)
    component, count = label(distance >= max(FAR, 2 / resolution))
    representative = np.ravel_multi_index(
        np.array(minimum_position(distance, component, range(1, count + 1)), int).reshape(-1, 3).T, distance.shape
    )
    near = np.flatnonzero(component == 0)
    classified = inside_from_samples(surface, normals, centers[np.concatenate([representative, near])])
    inside = np.concatenate([[False], classified[:count]])[component]
    inside.reshape(-1)[near] = classified[count:]
    return inside


def lookup_voxels(occupied: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return whether points lie in an occupied voxel of the unit cube.

    Points outside of the cube are outside of the shape. The published code differs there: its cast to integers
    truncates towards zero, so that points up to one voxel below the lower faces of the cube get the value of the voxel
    above them. With query points in [-0.55, 0.55]^3 that concerns up to 7 % of the points.

    Args:
        occupied: occupancy (R, R, R).
        points: points (n, 3).

    Returns:
        Booleans (n,).
    """
    side = len(occupied)
    cell = np.floor((points + 0.5) * side).astype(int)
    within = ((cell >= 0) & (cell < side)).all(1)
    return occupied[tuple(cell.clip(0, side - 1).T)] & within
