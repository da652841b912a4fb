"""Out of triangle meshes, a set of shapes in the layout of `layout.py`."""

from __future__ import annotations

import gzip
import io
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import yaml
from PIL import Image

from datasets.download import CorruptData, MissingData, alone_at
from datasets.shapes import layout
from datasets.shapes.binvox import write_binvox
from datasets.shapes.geometry import (
    BOX,
    RESOLUTION,
    Array,
    Indices,
    contains,
    half_near,
    merged,
    open_edges,
    surface_points,
    unit_cube,
    volume,
    voxelise,
)
from datasets.shapes.render import intrinsics, random_camera, render

log = logging.getLogger(__name__)

MESHES = re.compile(r"(?P<stem>.+)\.(?P<kind>off|obj|ply|stl)(?P<packed>\.gz)?", re.IGNORECASE)
RECORD = "build.yaml"  # how a set was built


@dataclass(frozen=True)
class Recipe:
    """points: so many of the volume, and of the surface. near: also points of which half are near the surface.

    watertight: close every mesh first (point-cloud-utils). views: pictures of each shape, from
    somewhat above, which is towards `up` (x, y, z). seed: of all that is drawn.
    """

    points: int = 100_000
    near: bool = False
    watertight: bool = False
    views: int = 0
    up: str = "y"
    seed: int = 0

    def files(self) -> list[str]:
        """What the folder of a model holds."""
        files = [layout.POINTS, layout.CLOUD, layout.VOXELS]
        return files + [layout.NEAR] * self.near + [layout.IMAGES] * (self.views > 0)


@dataclass(frozen=True)
class Source:
    """A mesh to be: its category, its name there, and the file that has it; key: of it in an .npz file."""

    category: str
    name: str
    path: Path
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" + ("" if self.key is None else f", mesh {self.key}")

    def load(self) -> tuple[Array, Indices]:
        """Vertices (V, 3), faces (F, 3), as they are in the file. Raises CorruptData."""
        try:
            return self._load_key() if self.key is not None else self._load_file()
        except CorruptData:
            raise
        except Exception as error:  # the readers of four formats raise whatever they stumble over
            raise CorruptData(f"{self} cannot be read ({type(error).__name__}: {error})") from error

    def _load_key(self) -> tuple[Array, Indices]:
        with np.load(self.path, allow_pickle=False) as kept:
            return kept[f"v{self.key}"].astype(np.float64), kept[f"f{self.key}"].astype(np.int64)

    def _load_file(self) -> tuple[Array, Indices]:
        import trimesh

        found = MESHES.fullmatch(self.path.name)
        content = self.path.read_bytes()
        if found["packed"]:
            content = gzip.decompress(content)
        mesh = trimesh.load_mesh(io.BytesIO(content), file_type=found["kind"].lower(), process=False)
        return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)


def folder_sources(root: Path) -> list[Source]:
    """The meshes (off, obj, ply, stl, also .gz) in the sub-folders of `root`, each a category, or right in `root`.

    Raises MissingData where there are none, CorruptData where two of a category have the same name.
    """
    sources: dict[tuple[str, str], Source] = {}
    passed_over = []
    for path in sorted([*root.glob("*"), *root.glob("*/*")]):
        if not path.is_file():
            continue
        if not (found := MESHES.fullmatch(path.name)):
            passed_over.append(str(path.relative_to(root)))
            continue
        category = path.parent.name if path.parent != root else root.resolve().name
        source = Source(category, found["stem"], path)
        if other := sources.get((category, source.name)):
            raise CorruptData(f"{other} and {source} would both become {category}/{source.name}")
        sources[category, source.name] = source
    if not sources:
        raise MissingData(f"there are no meshes (*.off, *.obj, *.ply, *.stl, also .gz) in {root.absolute()}")
    if passed_over:
        more = f" and {len(passed_over) - 5} more" if len(passed_over) > 5 else ""
        log.warning("not off, obj, ply or stl, passed over: %s%s", ", ".join(passed_over[:5]), more)
    return [*sources.values()]


def npz_keys(path: Path) -> list[str]:
    """The N of all pairs of vertices vN (V, 3) and faces fN (F, 3) in an .npz file. Raises CorruptData."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            names = set(kept.files)
    except layout.UNREADABLE as error:
        raise CorruptData(f"{path} is no whole npz file ({type(error).__name__}: {error})") from error
    if odd := sorted(name for name in names if name[0] not in "vf" or {f"v{name[1:]}", f"f{name[1:]}"} - names):
        raise CorruptData(f"{path} must have pairs of vN and fN; it has {', '.join(odd[:5])}")
    return sorted(name[1:] for name in names if name[0] == "v")


def prepared(vertices: Array, faces: Indices, watertight: bool) -> tuple[Array, Indices, dict[str, Array]]:
    """A mesh in the unit cube, outside outside, and its frame: loc and scale of the box of the mesh as it was given.

    Raises ValueError, saying what is wrong, for a mesh that has no inside.
    """
    if not len(vertices) or not len(faces):
        raise ValueError(f"it is empty: {len(vertices)} vertices, {len(faces)} faces")
    if bad := int((~np.isfinite(vertices)).any(1).sum()):
        raise ValueError(f"{bad} of {len(vertices)} vertices are not finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"faces name the vertices {faces.min()} to {faces.max()} of {len(vertices)}")
    vertices, faces = merged(vertices, faces)
    if not len(faces):
        raise ValueError("all of its faces are points or lines")
    loc, scale = unit_cube(vertices)
    vertices = (vertices - loc) / scale
    if watertight:
        vertices, faces = closed(vertices, faces)
    hint = "" if watertight else "; --watertight closes it"
    if count := open_edges(faces):
        raise ValueError(f"it is not watertight: {count} edges belong to an odd number of faces{hint}")
    enclosed = volume(vertices, faces)
    if abs(enclosed) < 1e-9:
        raise ValueError(f"it encloses nothing: its volume is 0{hint}")
    if np.abs(vertices).max() > BOX:
        raise ValueError(f"closed, it reaches {np.abs(vertices).max():.3f} from the middle, out of the box of {BOX}")
    return vertices, faces if enclosed > 0 else faces[:, ::-1], {"loc": loc, "scale": np.float64(scale)}


def closed(vertices: Array, faces: Indices, resolution: int = 20_000) -> tuple[Array, Indices]:
    """A watertight mesh around a soup of triangles (Huang et al. 2018); somewhat thicker. Raises ImportError."""
    try:
        import point_cloud_utils as pcu
    except ImportError as error:
        raise ImportError(
            "meshes are closed by point-cloud-utils, which is not installed: pip install '.[mesh]'"
        ) from error
    vertices, faces = pcu.make_mesh_watertight(vertices, faces, resolution=resolution)
    return merged(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))


def build_model(source: Source, folder: Path, recipe: Recipe) -> None:
    """The files of one model; `folder` appears whole or not at all. Raises CorruptData."""
    given = source.load()
    try:
        vertices, faces, frame = prepared(*given, recipe.watertight)
    except ValueError as error:
        raise CorruptData(f"{source}: {error}") from error
    drawn = np.random.default_rng([recipe.seed, zlib.crc32(f"{source.category}/{source.name}".encode())])
    with _whole(folder) as temporary:
        points = drawn.uniform(-BOX, BOX, (recipe.points, 3))
        layout.write_points(temporary / layout.POINTS, points, contains(vertices, faces, points), frame)
        surface, normals = surface_points(vertices, faces, recipe.points, drawn)
        layout.write_cloud(temporary / layout.CLOUD, surface, normals, frame)
        write_binvox(temporary / layout.VOXELS, voxelise(vertices, faces, RESOLUTION))
        if recipe.near:
            mixed = half_near(surface_points(vertices, faces, recipe.points // 2, drawn)[0], recipe.points, drawn)
            layout.write_points(temporary / layout.NEAR, mixed, contains(vertices, faces, mixed), frame)
        if recipe.views:
            _write_pictures(temporary / layout.IMAGES, vertices, faces, frame, recipe, drawn)


def _write_pictures(
    folder: Path,
    vertices: Array,
    faces: Indices,
    frame: Mapping[str, Array],
    recipe: Recipe,
    drawn: np.random.Generator,
) -> None:
    folder.mkdir()
    world = []
    for number in range(recipe.views):
        camera = random_camera(drawn, recipe.up)
        Image.fromarray(render(vertices, faces, camera)).convert("RGB").save(folder / f"{number:03}.jpg", quality=95)
        world.append(np.column_stack([camera[:, :3], camera[:, 3] * frame["scale"] - camera[:, :3] @ frame["loc"]]))
    layout.write_cameras(folder / layout.CAMERAS, world, [intrinsics()] * recipe.views)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` unless what happens in it fails."""
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def build(
    sources: Sequence[Source],
    root: Path,
    recipe: Recipe,
    split: Callable[[Sequence[Source]], Mapping[str, Sequence[Source]]],
    processes: int = 1,
) -> None:
    """The set `root` of all the meshes; goes on where it was stopped.

    Models first, by several processes, then the split files, then metadata.yaml, so that a set that has this is whole.

    Args:
        split: meshes of one category -> those of each part.

    Raises CorruptData: meshes that make no model, all of them named, or a set that was begun in another way.
    """
    with alone_at(root):
        root.mkdir(exist_ok=True)
        _build(sources, root, recipe, split, processes)


def _build(
    sources: Sequence[Source],
    root: Path,
    recipe: Recipe,
    split: Callable[[Sequence[Source]], Mapping[str, Sequence[Source]]],
    processes: int,
) -> None:
    _record(root, recipe)
    todo = [source for source in sources if not (root / source.category / source.name).exists()]
    faults = _build_models(todo, root, recipe, processes)
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise CorruptData(
            f"{len(faults)} of {len(sources)} meshes make no shape; {root} is no set until they are mended or removed, "
            f"and the same command is given again, which keeps the others:\n{listed}"
        )
    categories = sorted({source.category for source in sources})
    for category in categories:
        parts = split([source for source in sources if source.category == category])
        for part, members in parts.items():
            layout.write_split(root, layout.Category(category, category), part, [source.name for source in members])
    layout.write_categories(root, [layout.Category(category, category) for category in categories])


def _record(root: Path, recipe: Recipe) -> None:
    """Writes how the set is built. Raises CorruptData where it was begun in another way."""
    path, wanted = root / RECORD, asdict(recipe)
    if path.exists():
        begun = yaml.safe_load(path.read_text())
        if begun != wanted:
            other = ", ".join(
                f"{key}={begun.get(key)}, not {value}" for key, value in wanted.items() if begun.get(key) != value
            )
            raise CorruptData(f"{root} was begun with {other}: remove it, or build in another folder")
    path.write_text(yaml.safe_dump(wanted, sort_keys=False))


def _build_models(todo: Sequence[Source], root: Path, recipe: Recipe, processes: int) -> list[str]:
    """What is wrong with those that cannot be built."""
    from rich.console import Console
    from rich.progress import track

    if not todo:
        return []
    log.info("building %d shapes in %s, once", len(todo), root)
    results = _in_turn(todo, root, recipe) if processes == 1 else _side_by_side(todo, root, recipe, processes)
    shown = track(results, "shapes", total=len(todo), console=Console(stderr=True), transient=True)
    faults = {number: fault for number, fault in shown if fault}
    return [faults[number] for number in sorted(faults)]


def _fault(source: Source, root: Path, recipe: Recipe) -> str | None:
    try:
        build_model(source, root / source.category / source.name, recipe)
    except CorruptData as error:
        return str(error)
    return None


def _in_turn(todo: Sequence[Source], root: Path, recipe: Recipe) -> Iterator[tuple[int, str | None]]:
    for number, source in enumerate(todo):
        yield number, _fault(source, root, recipe)


def _side_by_side(
    todo: Sequence[Source], root: Path, recipe: Recipe, processes: int
) -> Iterator[tuple[int, str | None]]:
    with _one_thread_each(), ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool:
        tasks = {pool.submit(_fault, source, root, recipe): number for number, source in enumerate(todo)}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A process of the pool whose parent was killed would wait for work for ever."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started within have one thread each: they read the environment when they load a library."""
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
