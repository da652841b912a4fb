"""How near a reconstruction is to the true shape (paper, section 4, metrics, and supplementary 3).

Distances are Euclidean, and given in the paper's unit: a tenth of the longest edge of the shape's bounding box, which
is the edge of the unit cube here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

UNIT = 10.0  # of the paper's units in an edge of the unit cube
REACH = 0.01  # of the F-score, in edges
# Of a reconstruction without a surface: every point is as far off as the unit cube allows, normals are opposed.
WORST = {
    "accuracy": UNIT * math.sqrt(3),
    "completeness": UNIT * math.sqrt(3),
    "chamfer_l1": UNIT * math.sqrt(3),
    "normals": -1.0,
    "fscore": 0.0,
}


class Nearest(NamedTuple):
    """Of each point of one set, the distance to the nearest of the other, and which it is: both (n,)."""

    distance: np.ndarray
    index: np.ndarray


def nearest_tree(points: np.ndarray, to: np.ndarray, workers: int = 1) -> Nearest:
    """By a k-d tree, asked for neighbours one after another, which halves the time. points: (n, 3), to: (m, 3)."""
    asked, known = morton(points), morton(to)
    tree = cKDTree(to[known], leafsize=24, balanced_tree=False)
    found = tree.query(points[asked], workers=workers)
    distance, index = np.empty(len(points)), np.empty(len(points), np.int64)
    distance[asked], index[asked] = found[0], known[found[1]]
    return Nearest(distance, index)


def morton(points: np.ndarray, bits: int = 10) -> np.ndarray:
    """An order of points (n, 3) in which neighbours lie close to each other: along a Z-shaped curve."""
    low = points.min(0)
    cells = ((points - low) * ((2**bits - 1) / max(float((points.max(0) - low).max()), 1e-12))).astype(np.int64)
    key = np.zeros(len(points), np.int64)
    for bit in range(bits):
        for axis in range(3):
            key |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(key)


def nearest_brute(points: Tensor, to: Tensor, chunk: int = 1024) -> Nearest:
    """By comparing all pairs, `chunk` points at a time: what suits a GPU. points: (n, 3), to: (m, 3)."""
    found = [torch.cdist(part, to, compute_mode="donot_use_mm_for_euclid_dist").min(1) for part in points.split(chunk)]
    return Nearest(*(torch.cat(values).cpu().numpy() for values in zip(*found, strict=True)))


def nearest(points: np.ndarray, to: np.ndarray, device: torch.device | str = "cpu", workers: int = 1) -> Nearest:
    """On the CPU by a tree, elsewhere by comparing all pairs."""
    device = torch.device(device)
    if device.type == "cpu":
        return nearest_tree(points, to, workers)
    return nearest_brute(*(torch.as_tensor(x, dtype=torch.float32, device=device) for x in (points, to)))


def compare(
    points: np.ndarray,
    normals: np.ndarray | None,
    true_points: np.ndarray,
    true_normals: np.ndarray,
    device: torch.device | str = "cpu",
    workers: int = 1,
) -> dict[str, float]:
    """Metrics of points drawn evenly from a reconstruction against those drawn from the true surface.

    accuracy: mean distance of the reconstruction's points to the nearest true ones; completeness: the other way;
    chamfer_l1: the mean of both. All three in the paper's unit. normals: mean absolute cosine between the normals of
    nearest points, both ways; left out where there are no normals (a point set). fscore: harmonic mean of the shares
    of the points, either way, that are nearer than 1 % of the edge of the unit cube.

    Args:
        points (n, 3) and normals (n, 3), unit; true_points (m, 3) and true_normals (m, 3). Without any point: `WORST`.
        device: of the search for nearest points. workers: threads of it, on the CPU.
    """
    if not len(points):
        return {key: value for key, value in WORST.items() if key != "normals" or normals is not None}
    to_true = nearest(points, true_points, device, workers)
    to_ours = nearest(true_points, points, device, workers)
    accuracy, completeness = (UNIT * float(found.distance.mean()) for found in (to_true, to_ours))
    precision, recall = (float((found.distance < REACH).mean()) for found in (to_true, to_ours))
    measured = {
        "accuracy": accuracy,
        "completeness": completeness,
        "chamfer_l1": (accuracy + completeness) / 2,
        "fscore": 2 * precision * recall / max(precision + recall, 1e-12),
    }
    if normals is not None:
        cosines = cosine(normals, true_normals[to_true.index]), cosine(true_normals, normals[to_ours.index])
        measured["normals"] = sum(cosines) / 2
    return measured


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute cosine between unit vectors (n, 3)."""
    return float(np.abs(np.einsum("ij,ij->i", a, b)).mean())


def iou(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> float:
    """Share of the points in either set that are in both. a, b: (n,), bool. 0 where one is empty, 1 where both are."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def ious(values: Tensor, inside: Tensor, thresholds: Tensor) -> Tensor:
    """IoU of {values >= threshold} with `inside`, for every threshold: (k,). values: (n,), inside: (n,) bool.

    thresholds: (k,), ascending. One pass over the points.
    """
    bins = torch.bucketize(values, thresholds, right=True)  # how many thresholds a value reaches
    size = len(thresholds) + 1
    reach = [torch.bincount(bins[keep], minlength=size).flip(0).cumsum(0).flip(0)[1:] for keep in (inside, ~inside)]
    either = reach[1] + inside.sum()
    return torch.where(either > 0, reach[0] / either.clamp(min=1), torch.ones_like(either, dtype=torch.float))
