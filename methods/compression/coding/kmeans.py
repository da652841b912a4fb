"""K-means of numbers (Lloyd's algorithm in one dimension), with the initialisations that Deep Compression compares."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from datasets.checks import check_choice

INITS = ("linear", "density", "random")


class Clusters(NamedTuple):
    """Clusters of numbers.

    Shapes:
        centroids: (K,), rising.
        assignment: (N,) int64, cluster of each number.
    """

    centroids: Tensor
    assignment: Tensor


def initial_centroids(values: Tensor, k: int, init: str, seed: int = 0) -> Tensor:
    """Return rising initial centroids (Han et al. 2016, section 3.1).

    Args:
        values: (N,) numbers.
        k: number of clusters.
        init: linear (evenly from the smallest to the largest number), density (evenly in the distribution function),
            random (numbers drawn from the values, Forgy).
        seed: seed of `random`.
    """
    check_choice("init", init, INITS)
    if init == "linear":
        return torch.linspace(float(values.min()), float(values.max()), k, dtype=values.dtype)
    if init == "density":
        return values.sort().values[torch.linspace(0, len(values) - 1, k).round().long()].clone()
    generator = torch.Generator().manual_seed(seed)
    return values[torch.randperm(len(values), generator=generator)[:k]].sort().values


def kmeans_1d(values: Tensor, k: int, init: str = "linear", iterations: int = 50, seed: int = 0) -> Clusters:
    """Cluster numbers by Lloyd's algorithm.

    Centroids stay sorted, so the nearest one follows from the midpoints: an iteration costs O(N log K). An empty
    cluster keeps its centroid. It stops when no number changes its cluster.

    Args:
        values: (N,) numbers, on the CPU.
        k: number of clusters; fewer are made of fewer different numbers.
        init: see `initial_centroids`.
        iterations: largest number of iterations.
        seed: seed of a random initialisation.
    """
    values = values.detach().double()
    different = values.unique()
    if len(different) <= k:
        return Clusters(different.float(), torch.searchsorted(different, values))
    centroids = initial_centroids(values, k, init, seed)
    assignment = torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)
    for _ in range(iterations):
        counts = torch.bincount(assignment, minlength=k)
        sums = torch.zeros(k, dtype=values.dtype).index_add_(0, assignment, values)
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids).sort().values
        new = torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)
        if torch.equal(new, assignment):
            break
        assignment = new
    return Clusters(centroids.float(), assignment)
