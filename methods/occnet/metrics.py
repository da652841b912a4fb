"""Metrics of a reconstruction against the true shape (paper, section 4, metrics; supplementary 3).

Distances are Euclidean and in the unit of the paper: a tenth of the longest edge of the bounding box of the shape,
which here is the edge of the unit cube.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

UNIT = 10.0  # units of the paper per edge of the unit cube
FSCORE_DISTANCE = 0.01  # threshold of the F-score, in edges of the unit cube
# Values of a reconstruction without a surface: every point is as far off as the unit cube allows, normals are opposed.
WORST = {
    "accuracy": UNIT * math.sqrt(3),
    "completeness": UNIT * math.sqrt(3),
    "chamfer_l1": UNIT * math.sqrt(3),
    "normals": -1.0,
    "fscore": 0.0,
}


class Nearest(NamedTuple):
    """Nearest neighbours of n points in another set: distances (n,) and indices (n,)."""

    distance: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index


def nearest_tree(points: np.ndarray, to: np.ndarray, workers: int = 1) -> Nearest:
    """Find nearest neighbours by a k-d tree. Queries in Morton order halve the time.

    Args:
        points: points (n, 3).
        to: points (m, 3) in which neighbours are searched.
        workers: number of threads.
    """
    query_order, tree_order = morton_order(points), morton_order(to)
    tree = cKDTree(to[tree_order], leafsize=24, balanced_tree=False)
    neighbours = tree.query(points[query_order], workers=workers)
    distance, index = np.empty(len(points)), np.empty(len(points), np.int64)
    distance[query_order], index[query_order] = neighbours[0], tree_order[neighbours[1]]
    return Nearest(distance, index)


def morton_order(points: np.ndarray, bits: int = 10) -> np.ndarray:
    """Return an order of points (n, 3) along a Z-order curve, in which neighbours lie close to each other."""
    low = points.min(0)
    cells = ((points - low) * ((2**bits - 1) / max(float((points.max(0) - low).max()), 1e-12))).astype(np.int64)
    key = np.zeros(len(points), np.int64)
    for bit in range(bits):
        for axis in range(3):
            key |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(key)


def nearest_brute_force(points: Tensor, to: Tensor, chunk: int = 1024) -> Nearest:
    """Find nearest neighbours by comparing all pairs, which suits a GPU.

    Args:
        points: points (n, 3).
        to: points (m, 3) in which neighbours are searched.
        chunk: points that are compared at once.
    """
    parts = [torch.cdist(part, to, compute_mode="donot_use_mm_for_euclid_dist").min(1) for part in points.split(chunk)]
    return Nearest(*(torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True)))


def nearest(points: np.ndarray, to: np.ndarray, device: torch.device | str = "cpu", workers: int = 1) -> Nearest:
    """Find nearest neighbours, on the CPU by a tree, elsewhere by comparing all pairs.

    Args:
        points: points (n, 3).
        to: points (m, 3) in which neighbours are searched.
        device: device of the search.
        workers: number of threads on the CPU.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return nearest_tree(points, to, workers)
    on_device = [torch.as_tensor(x, dtype=torch.float32, device=device) for x in (points, to)]
    return nearest_brute_force(on_device[0], on_device[1])


def compare(
    points: np.ndarray,
    normals: np.ndarray | None,
    true_points: np.ndarray,
    true_normals: np.ndarray,
    device: torch.device | str = "cpu",
    workers: int = 1,
) -> dict[str, float]:
    """Compare points drawn uniformly from a reconstruction with those drawn from the true surface.

    Args:
        points: points of the reconstruction (n, 3). Without any, all metrics have their worst value.
        normals: their unit normals (n, 3), or None for a point set.
        true_points: points of the true surface (m, 3).
        true_normals: their unit normals (m, 3).
        device: device of the search for nearest neighbours.
        workers: number of threads of the search on the CPU.

    Returns:
        accuracy: mean distance from the reconstruction to the nearest true points, in the unit of the paper.
        completeness: mean distance from the true surface to the nearest points of the reconstruction, likewise.
        chamfer_l1: mean of both.
        normals: normal consistency, the mean absolute cosine between normals of nearest points, over both directions;
            not there for a point set.
        fscore: harmonic mean of the shares of points, in both directions, nearer than 1 % of the edge of the unit cube.
    """
    if not len(points):
        return {key: value for key, value in WORST.items() if key != "normals" or normals is not None}
    to_true = nearest(points, true_points, device, workers)
    to_predicted = nearest(true_points, points, device, workers)
    accuracy, completeness = (UNIT * float(n.distance.mean()) for n in (to_true, to_predicted))
    precision, recall = (float((n.distance < FSCORE_DISTANCE).mean()) for n in (to_true, to_predicted))
    metrics = {
        "accuracy": accuracy,
        "completeness": completeness,
        "chamfer_l1": (accuracy + completeness) / 2,
        "fscore": 2 * precision * recall / max(precision + recall, 1e-12),
    }
    if normals is not None:
        cosines = (
            absolute_cosine(normals, true_normals[to_true.index]),
            absolute_cosine(true_normals, normals[to_predicted.index]),
        )
        metrics["normals"] = sum(cosines) / 2
    return metrics


def absolute_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean absolute cosine between unit vectors (n, 3)."""
    return float(np.abs(np.einsum("ij,ij->i", a, b)).mean())


def iou(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> float:
    """Return the intersection over union of two sets of points, given as booleans (n,); 1 if both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def iou_by_threshold(values: Tensor, inside: Tensor, thresholds: Tensor) -> Tensor:
    """Return the IoU of {values >= threshold} with `inside` for every threshold, in one pass over the points.

    Args:
        values: values (n,).
        inside: booleans (n,).
        thresholds: thresholds (k,), ascending.

    Returns:
        IoU (k,).
    """
    bins = torch.bucketize(values, thresholds, right=True)  # number of thresholds that a value reaches
    size = len(thresholds) + 1
    reach = [torch.bincount(bins[keep], minlength=size).flip(0).cumsum(0).flip(0)[1:] for keep in (inside, ~inside)]
    union = reach[1] + inside.sum()
    return torch.where(union > 0, reach[0] / union.clamp(min=1), torch.ones_like(union, dtype=torch.float))
