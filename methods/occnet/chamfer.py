"""Chamfer distance as a training loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

VALIDATION_POINTS = 2048  # surface points that a validation loss uses, the first ones


def squared_chamfer_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared distance to the nearest point, from a to b plus from b to a.

    Shapes:
        a (B, n, 3), b (B, m, 3) -> (B,)
    """
    a_to_b = torch.stack([x - y[nearest_index(x, y)] for x, y in zip(a, b, strict=True)])
    b_to_a = torch.stack([y - x[nearest_index(y, x)] for x, y in zip(a, b, strict=True)])
    return a_to_b.square().sum(-1).mean(1) + b_to_a.square().sum(-1).mean(1)


@torch.no_grad()
def nearest_index(points: Tensor, to: Tensor) -> Tensor:
    """Return which of `to` is nearest to each point. One shape at a time stays in the cache of a CPU.

    Shapes:
        points (n, 3), to (m, 3) -> (n,)
    """
    return torch.addmm(to.square().sum(1), points, to.T, alpha=-2).argmin(1)


def surface_targets(batch: Any) -> Tensor:
    """Return points on the true surface (B, S, 3); in validation (B = 1) the first `VALIDATION_POINTS`.

    Raises:
        ValueError: if the shapes have no surface points.
    """
    if batch.surface is None:
        raise ValueError("this method trains on points of the surface, and the shapes have none")
    return batch.surface if len(batch.surface) > 1 else batch.surface[:, :VALIDATION_POINTS]
