"""How fast shapes are reconstructed, scored and trained on: our parts beside what a plain program would do.

    python -m scripts.bench_occnet [--repeats 3] [--threads 1] [--resolutions 64 128] [--shapes 32] [--fit 200] [--bf16]

Batches and training steps: our loader beside torch's over a data set that reads npz files for every item, as the
official code does, of the same shapes (100,000 points and as many of the surface each). Extraction: MISE beside the
dense grid, of a small network fitted to embedded solids for `--fit` steps, with a check that both make the same mesh.
Inside test of 100,000 points of a torus; nearest neighbours of 100,000 points both ways. Contestants take turns;
medians, and medians of the ratios of times taken in the same turn. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.shapes.datamodule import Solids
from datasets.shapes.geometry import contains
from datasets.shapes.loader import ShapeBatch, ShapeSet, TrainLoader
from methods.occnet.encoders import PointCloudEncoder
from methods.occnet.metrics import nearest_brute, nearest_tree
from methods.occnet.mise import Grid, dense, mise
from methods.occnet.module import OccupancyTraining, elbo
from methods.occnet.network import OccupancyNetwork
from methods.occnet.surface import march

POINTS, SEEN, NOISE = 100_000, 300, 0.005
SIZES = ((16, 2048), (8, 512))  # shapes of a batch, points of each; the second is that of the experiments for a core
Contestants = dict[str, Callable[[], object]]


class FilePerItem(Dataset):
    """An item reads its two files whole and keeps what a batch needs of them: `queries` points."""

    def __init__(self, folder: Path, shapes: ShapeSet, queries: int) -> None:
        self.queries = queries
        self.folders = [folder / str(place) for place in range(len(shapes))]
        for place, path in enumerate(self.folders):
            path.mkdir()
            points, surface, normals = (x[place].numpy() for x in (shapes.points, shapes.surface, shapes.normals))
            np.savez(path / "points.npz", points=points, occupancies=shapes.occupancies[place].numpy())
            np.savez(path / "pointcloud.npz", points=surface, normals=normals)

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        drawn = np.random.default_rng()
        stored = np.load(self.folders[index] / "points.npz")
        points = stored["points"].astype(np.float32)
        points += 1e-4 * drawn.standard_normal(points.shape, dtype=np.float32)
        occupancies = np.unpackbits(stored["occupancies"])[: len(points)].astype(np.float32)
        chosen = drawn.integers(len(points), size=self.queries)
        cloud = np.load(self.folders[index] / "pointcloud.npz")["points"].astype(np.float32)
        cloud = cloud[drawn.integers(len(cloud), size=SEEN)]
        cloud += NOISE * drawn.standard_normal(cloud.shape, dtype=np.float32)
        return points[chosen], occupancies[chosen], cloud


def network(shapes: int) -> OccupancyNetwork:
    torch.manual_seed(0)
    return OccupancyNetwork(
        "pointcloud", shapes, {"pointcloud": partial(PointCloudEncoder, hidden=64, c_dim=64)}, hidden=64
    )


def batches(loader: TrainLoader | DataLoader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Points, occupancies and inputs, epoch after epoch."""
    while True:
        for batch in loader:
            yield (batch.points, batch.occupancies, batch.inputs) if isinstance(batch, ShapeBatch) else tuple(batch)


def trainer(
    net: OccupancyNetwork, source: Iterator[tuple[Tensor, Tensor, Tensor]], bfloat16: bool = False
) -> Callable[[], None]:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        points, occupancies, inputs = next(source)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, _ = elbo(net(points, inputs), occupancies, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def race(title: str, contestants: Contestants, repeats: int, each: int = 1) -> None:
    """Prints the median seconds of each, and how many times those of the first the others take."""
    for run in contestants.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            for _ in range(each):
                run()
            taken[name].append((time.perf_counter() - start) / each)
    print(f"\n{title}")
    first = next(iter(taken.values()))
    for name, times in taken.items():
        ratio = statistics.median(b / a for a, b in zip(first, times, strict=True))
        print(f"  {name:<40}{statistics.median(times) * 1000:10.1f} ms{ratio:9.2f} x")


def loading_and_training(shapes: ShapeSet, batch: int, queries: int, repeats: int, bfloat16: bool) -> None:
    ours = TrainLoader(shapes, batch, queries, "pointcloud", input_points=SEEN, input_noise=NOISE)
    with tempfile.TemporaryDirectory() as folder:
        files = FilePerItem(Path(folder), shapes, queries)
        sources = {"ours": batches(ours)} | {
            f"npz per item, {n} workers": batches(
                DataLoader(files, batch, shuffle=True, num_workers=n, persistent_workers=n > 0)
            )
            for n in (0, 2)
        }
        loading: Contestants = {name: partial(next, source) for name, source in sources.items()}
        race(f"a batch of {batch} shapes, {queries} points of each", loading, repeats, each=4)
        training: Contestants = {n: trainer(network(len(shapes)), source) for n, source in sources.items()}
        if bfloat16:
            training = {"ours, bfloat16": trainer(network(len(shapes)), sources["ours"], bfloat16=True)} | training
        race("a training step of a small network", training, repeats, each=4)


def extraction(method: OccupancyTraining, cloud: Tensor, resolutions: list[int], repeats: int) -> None:
    method.eval()
    with torch.no_grad():
        code = method.network.encode(cloud)
    field = method.field(code, code.new_zeros(1, 0))

    def evaluate(places: np.ndarray) -> np.ndarray:
        return method.evaluate(torch.as_tensor(places), field)

    for resolution in resolutions:
        grids: dict[str, Grid] = {}

        def keep(name: str, make: Callable[[], Grid], grids: dict[str, Grid] = grids) -> None:
            grids[name] = make()
            march(grids[name], method.level)

        coarse = min(32, resolution // 4)
        contestants: Contestants = {
            f"MISE from {coarse}^3": partial(keep, "mise", partial(mise, evaluate, method.level, resolution, coarse)),
            "dense grid": partial(keep, "dense", partial(dense, evaluate, resolution)),
        }
        race(f"a mesh at {resolution}^3", contestants, repeats)
        ours, whole = (march(grids[name], method.level) for name in ("mise", "dense"))
        same = np.array_equal(ours.faces, whole.faces)
        off = float(np.abs(ours.vertices - whole.vertices).max()) if same else float("nan")
        few, all_ = grids["mise"].evaluated, grids["dense"].evaluated
        print(f"  points evaluated: {few:,} of {all_:,} ({100 * few / all_:.1f} %, {all_ / few:.1f} x fewer)")
        told = f"the same mesh, vertices within {off:.1g}" if same else "ANOTHER MESH"
        print(f"  {len(whole.faces):,} faces, {told}")


def inside_test(repeats: int) -> None:
    torus = trimesh.creation.torus(0.3, 0.12, major_sections=128, minor_sections=64)
    vertices, faces = np.asarray(torus.vertices, np.float64), np.asarray(torus.faces, np.int64)
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (POINTS, 3))
    contestants: Contestants = {"ours, parity along z": lambda: contains(vertices, faces, points)}
    if trimesh.ray.has_embree:
        contestants["trimesh with embree"] = lambda: torus.contains(points)
    try:
        import point_cloud_utils as pcu

        winding = partial(pcu.triangle_soup_fast_winding_number, vertices, faces.astype(np.int32), points)
        contestants["point-cloud-utils, winding number"] = winding
    except ImportError:
        pass
    race(f"inside test of {POINTS:,} points, {len(faces):,} faces", contestants, repeats)


def neighbours(repeats: int) -> None:
    def surface(seed: int) -> np.ndarray:
        directions = np.random.default_rng(seed).normal(size=(POINTS, 3))
        return (0.4 * directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)

    a, b = surface(0), surface(1)
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    contestants: Contestants = {
        "ours, k-d tree": lambda: (nearest_tree(a, b), nearest_tree(b, a)),
        "scipy's k-d tree as it is": lambda: (cKDTree(b).query(a), cKDTree(a).query(b)),
    }
    try:
        import point_cloud_utils as pcu

        contestants["point-cloud-utils"] = lambda: pcu.chamfer_distance(a, b)
    except ImportError:
        pass
    race(f"Chamfer distance of {POINTS:,} points and {POINTS:,}", contestants, repeats)
    part = tensors[0][: POINTS // 20]
    start = time.perf_counter()
    nearest_brute(part, tensors[1])
    print(f"  all pairs on the CPU: {(time.perf_counter() - start) * 40:.0f} s, from a twentieth of one way")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--shapes", type=int, default=32)
    parser.add_argument("--fit", type=int, default=200)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 too; very slow on CPUs without it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{arguments.threads} thread(s), {os.cpu_count()} cores with load {load}, {arguments.repeats} repeats in turn"
    )

    each = -(-arguments.shapes // 4)
    data = Solids({"train": each, "val": 1, "test": 1}, POINTS, categories=["box", "cone", "cylinder", "ellipsoid"])
    data.setup()
    shapes = data.parts["train"]
    for batch, queries in SIZES:
        loading_and_training(shapes, batch, queries, arguments.repeats, arguments.bf16)

    net = network(len(shapes))
    fit = trainer(net, batches(TrainLoader(shapes, 8, 512, "pointcloud", input_points=SEEN, input_noise=NOISE)))
    for _ in range(arguments.fit):
        fit()
    cloud = next(iter(TrainLoader(shapes, 1, 1, "pointcloud", input_points=SEEN, input_noise=NOISE))).inputs
    extraction(OccupancyTraining(net), cloud, arguments.resolutions, arguments.repeats)
    inside_test(arguments.repeats)
    neighbours(arguments.repeats)


if __name__ == "__main__":
    main()
