"""Scores of reconstructions against true shapes, and their means as a paper's table has them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.files import atomic_write
from datasets.shapes.geometry import sample_surface
from datasets.shapes.inside_test import contains
from methods.occnet.mesh import Mesh
from methods.occnet.metrics import compare, iou

Scores = dict[str, float]


class Reconstruction(NamedTuple):
    """Reconstruction of one shape: a mesh, or points alone.

    Args:
        mesh: mesh, or None if the method predicts points alone.
        points: points (n, 3), if there is no mesh.
        closed: whether the mesh bounds a solid; without that it has no IoU.
        metrics: metrics that the method itself measures, by name.
        meshes_at: closed meshes at other resolutions, whose IoU is measured too.
    """

    mesh: Mesh | None
    points: np.ndarray | None = None
    closed: bool = True
    metrics: Mapping[str, float] = {}
    meshes_at: Mapping[int, Mesh] = {}


class GroundTruth(NamedTuple):
    """True shape, in float32.

    Args:
        points: query points (T, 3).
        inside: whether they lie inside (T,).
        surface: surface points (S, 3).
        normals: unit normals (S, 3).
    """

    points: np.ndarray
    inside: np.ndarray
    surface: np.ndarray
    normals: np.ndarray


def ground_truth(batch: Any) -> GroundTruth:
    """Return the true shape of a batch of one shape.

    Raises:
        ValueError: if its surface is not known.
    """
    if batch.surface is None or batch.normals is None:
        raise ValueError("the test shapes come without points on their surface")
    arrays = (x[0].cpu().numpy() for x in (batch.points, batch.occupancies > 0.5, batch.surface, batch.normals))
    return GroundTruth(*arrays)


def score(
    prediction: Reconstruction, truth: GroundTruth, samples: int, seed: int, device: torch.device | str = "cpu"
) -> Scores:
    """Score a reconstruction.

    Args:
        prediction: reconstruction.
        truth: true shape.
        samples: number of points drawn from the mesh.
        seed: seed of these points.
        device: device of the search for nearest neighbours.

    Returns:
        `iou` of the closed mesh at the true shape's points, the metrics of `compare`, and `empty`: 1 for a
        reconstruction without a surface, which gets the worst value of every metric, else 0.
    """
    if prediction.mesh is None:
        points = prediction.points if prediction.points is not None else np.zeros((0, 3), np.float32)
        return compare(points, None, truth.surface, truth.normals, device) | {"empty": float(not len(points))}
    mesh = prediction.mesh
    closed = {"iou": mesh} if prediction.closed else {}
    closed |= {f"iou_at_{resolution}": other for resolution, other in prediction.meshes_at.items()}
    ious = {key: mesh_iou(other, truth) for key, other in closed.items()}
    if mesh.empty:
        nothing = np.zeros((0, 3), np.float32)
        return compare(nothing, nothing, truth.surface, truth.normals) | {"empty": 1.0} | ious
    points, normals = sample_surface(mesh.vertices, mesh.faces, samples, np.random.default_rng(seed))
    return compare(points, normals, truth.surface, truth.normals, device) | {"empty": 0.0} | ious


def mesh_iou(mesh: Mesh, truth: GroundTruth) -> float:
    """Return the IoU of a closed mesh with the true shape, at its points; 0 for an empty mesh.

    The inside of the mesh is told by parity, as in the official code.
    """
    return 0.0 if mesh.empty else iou(contains(mesh.vertices, mesh.faces, truth.points), truth.inside)


class Scorer:
    """Scores reconstructions while the next ones are made, in as many threads as the process may use.

    With one thread it scores at once. The scores do not depend on the number of threads.

    Args:
        samples: number of points drawn from each mesh.
        device: device of the search for nearest neighbours.
    """

    def __init__(self, samples: int, device: torch.device | str = "cpu") -> None:
        self.samples, self.device = samples, device
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self.pending: dict[int, Future[Scores]] = {}
        self.scores: dict[int, Scores] = {}

    def add(self, index: int, prediction: Reconstruction, truth: GroundTruth) -> None:
        """Score a reconstruction; a shape that was scored before is skipped.

        Args:
            index: place of the shape in its part; also the seed of the points that are drawn from the mesh.
            prediction: reconstruction.
            truth: true shape.
        """
        if index in self.scores or index in self.pending:
            return
        if self.pool is None:
            self.scores[index] = dict(prediction.metrics) | score(prediction, truth, self.samples, index, self.device)
            return
        while len(self.pending) >= 2 * self.threads:  # bounds the memory of the reconstructions that wait
            self._collect(next(iter(self.pending)))
        self.pending[index] = self.pool.submit(score, prediction, truth, self.samples, index, self.device)
        self.scores[index] = dict(prediction.metrics)

    def _collect(self, index: int) -> None:
        self.scores[index] |= self.pending.pop(index).result()

    def finish(self) -> dict[int, Scores]:
        """Return the scores by the index of the shape, sorted."""
        for index in list(self.pending):
            self._collect(index)
        if self.pool:
            self.pool.shutdown()
        return dict(sorted(self.scores.items()))


def class_means(scores: Mapping[int, Scores], categories: Sequence[str]) -> dict[str, Scores]:
    """Return the mean of every metric over the shapes of each category.

    Args:
        scores: scores by the index of the shape.
        categories: category of each shape.
    """
    by_category: dict[str, list[Scores]] = {}
    for index, values in scores.items():
        by_category.setdefault(categories[index], []).append(values)
    return {name: mean_scores(rows) for name, rows in sorted(by_category.items())}


def mean_scores(rows: Iterable[Scores]) -> Scores:
    """Return the mean of every metric over the rows that have it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            values.setdefault(key, []).append(value)
    return {key: float(np.mean(column)) for key, column in values.items()}


def write_scores(path: Path, scores: Mapping[int, Scores], names: Sequence[str], categories: Sequence[str]) -> None:
    """Write the scores as CSV, one row per shape."""
    keys = list(dict.fromkeys(key for row in scores.values() for key in row))
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, ["shape", "category", *keys])
        writer.writeheader()
        for index, row in scores.items():
            writer.writerow({"shape": names[index], "category": categories[index]} | row)
