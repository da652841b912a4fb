"""How fast shapes are loaded, and points told inside from outside, beside what others do.

    python -m scripts.bench_shapes [--repeats 5] [--shapes 64] [--batch-size 16] [--points 2048] [--threads 1]

Loading: an epoch of our batches (points, occupancies, a noisy cloud) beside torch's DataLoader over a data set that
reads a model's two files for each item, as the published code does; on random shapes of 100,000 points, in the layout
that both know. Inside: 100,000 points and a mesh of 20,480 faces, beside trimesh with embree and the winding numbers of
point-cloud-utils (`pip install '.[mesh]'`). The contestants take turns, so that other load on the machine hits all
alike; medians over the repeats are printed, and the ratios of times taken in the same turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.shapes import layout
from datasets.shapes.geometry import BOX, contains
from datasets.shapes.loader import LATTICE, ShapeSet, TrainLoader

STORED = 100_000
CLOUD, NOISE = 300, 0.005
WORKERS = (0, 2)


class PerModel(Dataset):
    """The same batches out of the files of a model, read for each item: points, occupancies, noisy cloud, index."""

    def __init__(self, models: list[Path], points: int) -> None:
        self.models, self.points = models, points

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, Tensor, int]:
        with np.load(self.models[place] / layout.POINTS) as kept:
            stored = kept["points"].astype(np.float32)
            stored += LATTICE * np.random.randn(*stored.shape).astype(np.float32)  # noqa: NPY002, workers are seeded
            inside = np.unpackbits(kept["occupancies"])[: len(stored)].astype(np.float32)
        drawn = np.random.randint(len(stored), size=self.points)  # noqa: NPY002
        with np.load(self.models[place] / layout.CLOUD) as kept:
            surface = kept["points"].astype(np.float32)
        seen = surface[np.random.randint(len(surface), size=CLOUD)]  # noqa: NPY002
        seen += NOISE * np.random.randn(*seen.shape).astype(np.float32)  # noqa: NPY002
        return torch.from_numpy(stored[drawn]), torch.from_numpy(inside[drawn]), torch.from_numpy(seen), place


def random_set(folder: Path, count: int) -> tuple[list[Path], ShapeSet]:
    """`count` models of random points below `folder`, and the same in memory."""
    drawn = np.random.default_rng(0)
    frame = {"loc": np.zeros(3), "scale": np.float64(1)}
    models, arrays = [], []
    for number in range(count):
        models.append(folder / f"{number}")
        models[-1].mkdir()
        points, surface = drawn.uniform(-BOX, BOX, (2, STORED, 3))
        layout.write_points(models[-1] / layout.POINTS, points, points[:, 0] > 0.3, frame)
        layout.write_cloud(models[-1] / layout.CLOUD, surface, surface, frame)
        stored, packed = layout.read_points(models[-1] / layout.POINTS)
        arrays.append((stored, packed, *layout.read_cloud(models[-1] / layout.CLOUD)))
    points, packed, surface, normals = (torch.from_numpy(np.stack(values)) for values in zip(*arrays, strict=True))
    names = [model.name for model in models]
    return models, ShapeSet(points, packed, names, ["random"] * count, surface, normals)


def loaders(folder: Path, shapes: int, batch_size: int, points: int) -> dict[str, Callable[[], object]]:
    """What goes through an epoch, by name."""
    models, held = random_set(folder, shapes)
    found = {"ours": TrainLoader(held, batch_size, points, "pointcloud", input_points=CLOUD, input_noise=NOISE)}
    for workers in WORKERS:
        name = f"DataLoader of files, {workers} workers"
        found[name] = DataLoader(PerModel(models, points), batch_size, shuffle=True, num_workers=workers)

    def epoch(loader: object) -> Callable[[], None]:
        def run() -> None:
            for _ in loader:
                pass

        return run

    return {name: epoch(loader) for name, loader in found.items()}


def inside_tests() -> dict[str, Callable[[], object]]:
    """What tells the points inside, by name."""
    mesh = trimesh.creation.icosphere(5, 0.45)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    points = np.random.default_rng(1).uniform(-BOX, BOX, (STORED, 3))
    found: dict[str, Callable[[], object]] = {"ours": lambda: contains(vertices, faces, points)}
    if trimesh.ray.has_embree:
        found["trimesh with embree"] = lambda: trimesh.Trimesh(vertices, faces, process=False).contains(points)
    try:
        import point_cloud_utils as pcu

        found["winding numbers"] = lambda: pcu.triangle_soup_fast_winding_number(
            vertices, faces.astype(np.int32), points
        )
    except ImportError:
        pass
    return found


def race(title: str, contestants: dict[str, Callable[[], object]], repeats: int) -> None:
    """Prints the median time of each, and of its ratio to the first one's in the same turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    print(title)
    first = next(iter(times.values()))
    for name, taken in times.items():
        ratio = statistics.median(mine / ours for mine, ours in zip(taken, first, strict=True))
        print(f"  {name:<32} {1000 * statistics.median(taken):9.1f} ms   x {ratio:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{given.threads} thread(s), {os.cpu_count()} cores with load {load}, medians of {given.repeats} repeats")
    with tempfile.TemporaryDirectory() as folder:
        contestants = loaders(Path(folder), given.shapes, given.batch_size, given.points)
        title = f"an epoch of {given.shapes} shapes, batches of {given.batch_size}, {given.points} points of each"
        race(title, contestants, given.repeats)
    race(f"{STORED} points inside or outside a mesh of 20480 faces", inside_tests(), given.repeats)


if __name__ == "__main__":
    main()
