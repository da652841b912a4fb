"""Building a set of shapes on disk, in the format of `shapenet_format`, out of triangle meshes."""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image

from datasets.download import CorruptData, alone_at
from datasets.files import atomic_write
from datasets.progress import UNDERWAY, track
from datasets.shapes import shapenet_format as fmt
from datasets.shapes.binvox import write_binvox
from datasets.shapes.geometry import BOX, RESOLUTION, mix_uniform_and_near, voxel_centers
from datasets.shapes.inside_test import union_contains, voxelize
from datasets.shapes.meshes import LISTED, MeshSource, PreparedMesh, prepare_mesh, sample_boundary
from datasets.shapes.render import intrinsics, random_camera, render

log = logging.getLogger(__name__)

RECORD = "build.yaml"  # how a set was built
Split = Callable[[Sequence[MeshSource]], Mapping[str, Sequence[MeshSource]]]


@dataclass(frozen=True)
class Recipe:
    """Numbers and resolutions of what is sampled from each mesh.

    Args:
        points: number of points in the volume, and on the surface.
        near: also write query points of which half are near the surface.
        watertight: close every mesh first, with point-cloud-utils.
        views: number of rendered images of each shape, seen from somewhat above.
        up: axis that points up in the images: `x`, `y` or `z`.
        seed: seed of all random draws.
    """

    points: int = 100_000
    near: bool = False
    watertight: bool = False
    views: int = 0
    up: str = "y"
    seed: int = 0


class Outcome(NamedTuple):
    """Result of building one shape: an error message or None, and notes for the log."""

    error: str | None
    notes: list[str]


def build_model(source: MeshSource, folder: Path, recipe: Recipe) -> list[str]:
    """Write the files of one shape. The folder appears complete or not at all.

    Occupancy is that of the union of the closed parts of the mesh (see `orientation`).

    Returns:
        Notes on what was changed or decided for this mesh.

    Raises:
        CorruptData: if the mesh cannot be read or bounds no solid.
    """
    arrays = source.load()
    rng = np.random.default_rng([recipe.seed, zlib.crc32(f"{source.category}/{source.name}".encode())])
    try:
        mesh = prepare_mesh(*arrays, recipe.watertight)
        with _complete_folder(folder) as temporary:
            _write_samples(temporary, mesh, recipe, rng)
            if recipe.views:
                _write_images(temporary / fmt.IMAGES, mesh, recipe, rng)
    except ValueError as error:
        raise CorruptData(f"{source}: {error}") from error
    return mesh.notes


def _write_samples(folder: Path, mesh: PreparedMesh, recipe: Recipe, rng: np.random.Generator) -> None:
    vertices, faces, frame, _ = mesh
    points = rng.uniform(-BOX, BOX, (recipe.points, 3))
    fmt.write_points(folder / fmt.POINTS, points, union_contains(vertices, faces, points), frame)
    surface, normals = sample_boundary(vertices, faces, recipe.points, rng)
    fmt.write_point_cloud(folder / fmt.POINT_CLOUD, surface, normals, frame)
    write_binvox(folder / fmt.VOXELS, voxelize(vertices, faces, voxel_centers(RESOLUTION)))
    if recipe.near:
        near = sample_boundary(vertices, faces, recipe.points // 2, rng)[0]
        mixed = mix_uniform_and_near(near, recipe.points, rng)
        fmt.write_points(folder / fmt.NEAR_POINTS, mixed, union_contains(vertices, faces, mixed), frame)


def _write_images(folder: Path, mesh: PreparedMesh, recipe: Recipe, rng: np.random.Generator) -> None:
    vertices, faces, frame, _ = mesh
    folder.mkdir()
    world = []
    for number in range(recipe.views):
        camera = random_camera(rng, recipe.up)
        Image.fromarray(render(vertices, faces, camera)).convert("RGB").save(folder / f"{number:03}.jpg", quality=95)
        world.append(np.column_stack([camera[:, :3], camera[:, 3] * frame["scale"] - camera[:, :3] @ frame["loc"]]))
    fmt.write_cameras(folder / fmt.CAMERAS, world, [intrinsics()] * recipe.views)


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` unless the body raises."""
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def build_dataset(sources: Sequence[MeshSource], root: Path, recipe: Recipe, split: Split, processes: int = 1) -> None:
    """Build a set of shapes. The same call continues a build that was stopped.

    Models come first, then the split files, then metadata.yaml, so that a set that has this file is complete.

    Args:
        sources: meshes.
        root: folder of the set.
        recipe: what is sampled.
        split: function from the meshes of one category to those of each part.
        processes: number of processes that build shapes.

    Raises:
        CorruptData: if some meshes cannot become shapes, naming each of them, or if the set was begun with another
            recipe.
    """
    with alone_at(root):
        root.mkdir(exist_ok=True)
        _check_recipe(root, recipe)
        missing = [source for source in sources if not (root / source.category / source.name).exists()]
        errors = _build_models(missing, root, recipe, processes)
        if errors:
            listed = "\n".join(f"  {error}" for error in errors)
            raise CorruptData(
                f"{len(errors)} of {len(sources)} meshes cannot become shapes, and {root} is not complete. Repair or "
                f"remove them and run the same command again; it keeps the other shapes.\n{listed}"
            )
        _write_lists(sources, root, split)


def _write_lists(sources: Sequence[MeshSource], root: Path, split: Split) -> None:
    """Write the split files of each category, and metadata.yaml."""
    categories = [fmt.Category(name, name) for name in sorted({source.category for source in sources})]
    for category in categories:
        parts = split([source for source in sources if source.category == category.folder])
        for part, members in parts.items():
            fmt.write_split(root, category, part, [source.name for source in members])
    fmt.write_categories(root, categories)


def _check_recipe(root: Path, recipe: Recipe) -> None:
    """Write the recipe of a new set, or compare it with that of a set which was begun.

    Raises:
        CorruptData: if they differ.
    """
    path, expected = root / RECORD, asdict(recipe)
    if path.exists():
        begun = yaml.safe_load(path.read_text())
        if begun != expected:
            begun = begun if isinstance(begun, dict) else {}
            other = ", ".join(
                f"{key}={begun.get(key)}, not {value}" for key, value in expected.items() if begun.get(key) != value
            )
            raise CorruptData(f"{root} was begun with {other}: remove it, or build in another folder")
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(expected, sort_keys=False))


def _build_models(sources: Sequence[MeshSource], root: Path, recipe: Recipe, processes: int) -> list[str]:
    """Build shapes with progress shown, and return the errors in the order of the sources."""
    if not sources:
        return []
    log.info("building %d shapes in %s, once", len(sources), root, extra=UNDERWAY)
    build = _build_serially if processes == 1 else _build_in_parallel
    results = build(sources, root, recipe, processes)
    outcomes = dict(track(results, "shapes built", total=len(sources)))
    _log_notes([f"{sources[number]}: {note}" for number in sorted(outcomes) for note in outcomes[number].notes])
    return [error for number in sorted(outcomes) if (error := outcomes[number].error)]


def _log_notes(notes: Sequence[str]) -> None:
    for note in notes[:LISTED]:
        log.warning("%s", note)
    if len(notes) > LISTED:
        log.warning("and %d more notes of this kind", len(notes) - LISTED)


def _build_one(source: MeshSource, root: Path, recipe: Recipe) -> Outcome:
    try:
        return Outcome(None, build_model(source, root / source.category / source.name, recipe))
    except CorruptData as error:
        return Outcome(str(error), [])


def _build_serially(
    sources: Sequence[MeshSource], root: Path, recipe: Recipe, processes: int
) -> Iterator[tuple[int, Outcome]]:
    for number, source in enumerate(sources):
        yield number, _build_one(source, root, recipe)


def _build_in_parallel(
    sources: Sequence[MeshSource], root: Path, recipe: Recipe, processes: int
) -> Iterator[tuple[int, Outcome]]:
    with _one_thread_each(), ProcessPoolExecutor(processes, get_context("spawn"), _exit_with_parent) as pool:
        tasks = {pool.submit(_build_one, source, root, recipe): number for number, source in enumerate(sources)}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _exit_with_parent() -> None:
    """End this process when its parent ends. Otherwise it would wait for work forever after the parent was killed."""

    def watch() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Give processes started in the body one thread each. They read the environment when they load a library."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
