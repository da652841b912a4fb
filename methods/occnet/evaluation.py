"""A reconstruction scored against its true shape, and the scores of many shapes as a paper's table has them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.shapes.geometry import contains, surface_points
from methods.occnet.metrics import compare, iou
from methods.occnet.surface import Mesh

Scores = dict[str, float]


class Reconstruction(NamedTuple):
    """What a method makes of an input: a mesh, or points alone. closed: does the mesh bound a solid? Else it has no
    IoU.

    measured: what the method itself has to say of it, by the metric's name. at: closed meshes at other resolutions, of
    which the IoU is of interest.
    """

    mesh: Mesh | None
    points: np.ndarray | None = None
    closed: bool = True
    measured: Scores = {}  # noqa: RUF012  (never written to)
    at: Mapping[int, Mesh] = {}


class Truth(NamedTuple):
    """points (T, 3), inside (T,) bool, and surface (S, 3) with its unit normals (S, 3), of a true shape. Float32."""

    points: np.ndarray
    inside: np.ndarray
    surface: np.ndarray
    normals: np.ndarray


def truth_of(batch: Any) -> Truth:
    """Of a batch of one shape. Raises ValueError where its surface is not known."""
    if batch.surface is None or batch.normals is None:
        raise ValueError("the test shapes come without points on their surface")
    arrays = (x[0].cpu().numpy() for x in (batch.points, batch.occupancies > 0.5, batch.surface, batch.normals))
    return Truth(*arrays)


def score(found: Reconstruction, true: Truth, samples: int, seed: int, device: torch.device | str = "cpu") -> Scores:
    """iou (of the true shape's points, by which of them the closed mesh holds), and what `compare` gives.

    samples: points drawn evenly from the mesh. `empty` is 1 for a reconstruction without a surface, which gets the
    worst of every metric, else 0. seed: of the drawing.
    """
    if found.mesh is None:
        points = found.points if found.points is not None else np.zeros((0, 3), np.float32)
        return compare(points, None, true.surface, true.normals, device) | {"empty": float(not len(points))}
    mesh, closed = found.mesh, {"iou": found.mesh} if found.closed else {}
    closed |= {f"iou_at_{resolution}": other for resolution, other in found.at.items()}
    ious = {key: mesh_iou(of, true) for key, of in closed.items()}
    if mesh.empty:
        nothing = np.zeros((0, 3), np.float32)
        return compare(nothing, nothing, true.surface, true.normals) | {"empty": 1.0} | ious
    points, normals = surface_points(mesh.vertices, mesh.faces, samples, np.random.default_rng(seed))
    return compare(points, normals, true.surface, true.normals, device) | {"empty": 0.0} | ious


def mesh_iou(mesh: Mesh, true: Truth) -> float:
    """IoU of a closed mesh with the true shape, on its points; 0 for a mesh without faces."""
    return 0.0 if mesh.empty else iou(contains(mesh.vertices, mesh.faces, true.points), true.inside)


class Scorer:
    """Scores reconstructions while the next ones are made, in as many threads as the process may use.

    With one thread, at once. The scores do not depend on how many there are.
    """

    def __init__(self, samples: int, device: torch.device | str = "cpu") -> None:
        self.samples, self.device = samples, device
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self.waiting: dict[int, Future[Scores]] = {}
        self.done: dict[int, Scores] = {}

    def add(self, index: int, found: Reconstruction, true: Truth) -> None:
        """index: of the shape in its part; it is also the seed of the points that are drawn from the mesh."""
        if index in self.done or index in self.waiting:
            return
        if self.pool is None:
            self.done[index] = found.measured | score(found, true, self.samples, index, self.device)
            return
        while len(self.waiting) >= 2 * self.threads:  # meshes and points of the waiting ones are held in memory
            self._collect(next(iter(self.waiting)))
        task = self.pool.submit(score, found, true, self.samples, index, self.device)
        self.waiting[index] = task
        self.done[index] = dict(found.measured)

    def _collect(self, index: int) -> None:
        self.done[index] |= self.waiting.pop(index).result()

    def finish(self) -> dict[int, Scores]:
        """Scores by the shape's index, in its order."""
        for index in list(self.waiting):
            self._collect(index)
        if self.pool:
            self.pool.shutdown()
        return dict(sorted(self.done.items()))


def class_means(scores: Mapping[int, Scores], categories: Sequence[str]) -> dict[str, Scores]:
    """Category -> mean of every metric over its shapes. scores: by index; categories: of all shapes."""
    by_category: dict[str, list[Scores]] = {}
    for index, values in scores.items():
        by_category.setdefault(categories[index], []).append(values)
    return {name: mean_of(rows) for name, rows in sorted(by_category.items())}


def mean_of(rows: Iterable[Scores]) -> Scores:
    """Mean of every metric over the rows that have it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            values.setdefault(key, []).append(value)
    return {key: float(np.mean(found)) for key, found in values.items()}


def write_scores(path: Path, scores: Mapping[int, Scores], names: Sequence[str], categories: Sequence[str]) -> None:
    """A row a shape, as CSV."""
    keys = list(dict.fromkeys(key for row in scores.values() for key in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["shape", "category", *keys])
        writer.writeheader()
        for index, row in scores.items():
            writer.writerow({"shape": names[index], "category": categories[index]} | row)
