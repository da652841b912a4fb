"""Time loading, training, mesh extraction and scoring of shapes beside what a plain program would do.

    python -m scripts.bench_occnet [--repeats 3] [--threads 1] [--resolutions 64 128] [--shapes 32] [--fit 200] [--bf16]

Batches and training steps: our loader beside the loader of torch over a data set that reads npz files for every item,
as the official code does, of the same shapes (100,000 points and as many of the surface each). Extraction: MISE beside
the dense grid, of a small network fitted to embedded solids for `--fit` steps, with a check that both make the same
mesh; the IoU of the network is printed, and with few steps a warning that its surface is not that of a shape. Inside
test of 100,000 points of a torus; nearest neighbours of 100,000 points both ways. Contestants take turns; medians, and
medians of the ratios of times taken in the same turn. Libraries that are not installed are left out.
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

from datasets.shapes.inside_test import contains
from datasets.shapes.loaders import EvalLoader, TrainLoader
from datasets.shapes.shape_set import ShapeBatch, ShapeSet
from datasets.shapes.solids import Solids
from methods.occnet.encoders import PointCloudEncoder
from methods.occnet.extraction import marching_cubes
from methods.occnet.metrics import iou, nearest_brute_force, nearest_tree
from methods.occnet.mise import Grid, dense_grid, mise
from methods.occnet.module import OccupancyNetworks, negative_elbo
from methods.occnet.occupancy_network import OccupancyNetwork
from scripts.arguments import not_negative, positive

POINTS, INPUT_POINTS, NOISE = 100_000, 300, 0.005
SIZES = ((16, 2048), (8, 512))  # shapes per batch, points per shape; the second is that of the experiments for a CPU
MARGIN = 0.05  # gain in IoU over a solid box from which on a network counts as fitted
Contestants = dict[str, Callable[[], object]]


class FilePerItem(Dataset):
    """Data set whose items read two files each and keep `queries` points of them.

    Args:
        folder: empty folder, which gets the files.
        shapes: shapes that are written.
        queries: query points per item.
    """

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
        rng = np.random.default_rng()
        stored = np.load(self.folders[index] / "points.npz")
        points = stored["points"].astype(np.float32)
        points += 1e-4 * rng.standard_normal(points.shape, dtype=np.float32)
        occupancies = np.unpackbits(stored["occupancies"])[: len(points)].astype(np.float32)
        chosen = rng.integers(len(points), size=self.queries)
        cloud = np.load(self.folders[index] / "pointcloud.npz")["points"].astype(np.float32)
        cloud = cloud[rng.integers(len(cloud), size=INPUT_POINTS)]
        cloud += NOISE * rng.standard_normal(cloud.shape, dtype=np.float32)
        return points[chosen], occupancies[chosen], cloud


def small_network(shapes: int) -> OccupancyNetwork:
    """Return a network with the same random weights every time."""
    torch.manual_seed(0)
    return OccupancyNetwork(
        "pointcloud", shapes, {"pointcloud": partial(PointCloudEncoder, hidden=64, c_dim=64)}, hidden=64
    )


def batches(loader: TrainLoader | DataLoader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield points, occupancies and inputs, epoch after epoch."""
    while True:
        for batch in loader:
            yield (batch.points, batch.occupancies, batch.inputs) if isinstance(batch, ShapeBatch) else tuple(batch)


def training_step(
    net: OccupancyNetwork, source: Iterator[tuple[Tensor, Tensor, Tensor]], bfloat16: bool = False
) -> Callable[[], None]:
    """Return a function that makes one training step on the next batch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        points, occupancies, inputs = next(source)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, _ = negative_elbo(net(points, inputs), occupancies, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def race(title: str, contestants: Contestants, repeats: int, each: int = 1) -> None:
    """Time the contestants in turn, and print the median of each and its ratio to the first.

    Args:
        title: what is timed.
        contestants: functions by name.
        repeats: number of turns.
        each: calls per turn.
    """
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


def bench_training(shapes: ShapeSet, batch: int, queries: int, repeats: int, bfloat16: bool) -> None:
    """Time batches and training steps."""
    ours = TrainLoader(shapes, batch, queries, "pointcloud", input_points=INPUT_POINTS, input_noise=NOISE)
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
        training: Contestants = {n: training_step(small_network(len(shapes)), source) for n, source in sources.items()}
        if bfloat16:
            training = {
                "ours, bfloat16": training_step(small_network(len(shapes)), sources["ours"], bfloat16=True)
            } | training
        race("a training step of a small network", training, repeats, each=4)


def bench_extraction(method: OccupancyNetworks, cloud: Tensor, resolutions: list[int], repeats: int) -> None:
    """Time MISE and the dense grid, and check that they make the same mesh."""
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
            marching_cubes(grids[name], method.logit_threshold)

        coarse = min(32, resolution // 4)
        contestants: Contestants = {
            f"MISE from {coarse}^3": partial(
                keep, "mise", partial(mise, evaluate, method.logit_threshold, resolution, coarse)
            ),
            "dense grid": partial(keep, "dense", partial(dense_grid, evaluate, resolution)),
        }
        race(f"a mesh at {resolution}^3", contestants, repeats)
        ours, whole = (marching_cubes(grids[name], method.logit_threshold) for name in ("mise", "dense"))
        same = np.array_equal(ours.faces, whole.faces)
        off = float(np.abs(ours.vertices - whole.vertices).max()) if same else float("nan")
        few, all_ = grids["mise"].evaluated, grids["dense"].evaluated
        print(f"  points evaluated: {few:,} of {all_:,} ({100 * few / all_:.1f} %, {all_ / few:.1f} x fewer)")
        verdict = f"the same mesh, vertices within {off:.1g}" if same else "ANOTHER MESH"
        print(f"  {len(whole.faces):,} faces, {verdict}")


def bench_inside_test(repeats: int) -> None:
    """Time inside tests of a mesh."""
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


def bench_neighbours(repeats: int) -> None:
    """Time searches for nearest neighbours."""

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
    nearest_brute_force(part, tensors[1])
    print(f"  all pairs on the CPU: {(time.perf_counter() - start) * 40:.0f} s, from a twentieth of one way")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=3, help="turns (default 3)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch (default 1)")
    parser.add_argument("--resolutions", type=positive, nargs="+", default=[64, 128], help="of meshes (default 64 128)")
    parser.add_argument("--shapes", type=positive, default=32, help="training shapes (default 32)")
    parser.add_argument("--fit", type=not_negative, default=200, help="training steps before the timing (default 200)")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 too; very slow on CPUs without it")
    return parser


def fit_network(shapes: ShapeSet, steps: int) -> OccupancyNetwork:
    """Fit a small network to shapes, and print how well it represents the first of them."""
    network = small_network(len(shapes))
    inputs = {"input_points": INPUT_POINTS, "input_noise": NOISE}
    step = training_step(network, batches(TrainLoader(shapes, 8, 512, "pointcloud", **inputs)))
    for _ in range(steps):
        step()
    network.eval()
    batch = next(iter(EvalLoader(shapes, "pointcloud", **inputs)))
    with torch.no_grad():
        logits = network(batch.points, batch.inputs)[0]
    inside = batch.occupancies[0] > 0.5
    score = iou(logits >= OccupancyNetworks(network).logit_threshold, inside)
    print(describe_fit(steps, score, float(inside.float().mean())))
    return network.train()


def describe_fit(steps: int, score: float, solid_box: float) -> str:
    """Return what the network was fitted to, with a warning if it does not represent its shapes.

    Args:
        steps: training steps.
        score: IoU of the network with a training shape.
        solid_box: IoU with this shape of a network that says inside everywhere, as untrained ones may.
    """
    text = f"\nnetwork of the meshes: {steps} training steps, IoU {score:.2f} with a training shape"
    if steps and score >= solid_box + MARGIN:
        return text
    return f"{text}\n  NOT FITTED: times and ratios of its meshes say nothing of shapes; use --fit 100 or more"


def main() -> None:
    """Run all benchmarks."""
    options = make_parser().parse_args()
    torch.set_num_threads(options.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{options.threads} thread(s), {os.cpu_count()} cores with load {load}, {options.repeats} repeats in turn")

    each = -(-options.shapes // 4)
    counts = {"train": each, "val": 1, "test": 1}
    data = Solids(counts, POINTS, categories=["box", "cone", "cylinder", "ellipsoid"])
    data.setup()
    shapes = data.parts["train"]
    for batch, queries in SIZES:
        bench_training(shapes, batch, queries, options.repeats, options.bf16)

    network = fit_network(shapes, options.fit)
    inputs = {"input_points": INPUT_POINTS, "input_noise": NOISE}
    cloud = next(iter(TrainLoader(shapes, 1, 1, "pointcloud", **inputs))).inputs
    bench_extraction(OccupancyNetworks(network), cloud, options.resolutions, options.repeats)
    bench_inside_test(options.repeats)
    bench_neighbours(options.repeats)


if __name__ == "__main__":
    main()
