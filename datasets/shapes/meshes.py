"""Mesh files: finding them in folders and archives, reading them, and preparing them to be sampled."""

from __future__ import annotations

import gzip
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.download import CorruptData, MissingData
from datasets.shapes.geometry import (
    BOX,
    FloatArray,
    IntArray,
    count_open_edges,
    merge_vertices,
    sample_surface,
    signed_volumes,
    unit_cube_frame,
)
from datasets.shapes.inside_test import union_contains
from datasets.shapes.orientation import Orientation, drop_repeated_faces, orient_outward

log = logging.getLogger(__name__)

MESH_NAME = re.compile(r"(?P<stem>.+)\.(?P<kind>off|obj|ply|stl)(?P<packed>\.gz)?", re.IGNORECASE)
SKIN = 1e-6  # distance from the surface at which its two sides are tested, in edges of the unit cube
LISTED = 5  # file names that a message lists


@dataclass(frozen=True)
class MeshSource:
    """A mesh that is to become a shape.

    Args:
        category: name of its category.
        name: name of the mesh in the category.
        path: file that holds it.
        key: number of the mesh in an .npz file; None if the file holds one mesh.
    """

    category: str
    name: str
    path: Path
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" + ("" if self.key is None else f", mesh {self.key}")

    def load(self) -> tuple[FloatArray, IntArray]:
        """Read vertices (V, 3) and faces (F, 3) as they are in the file.

        Raises:
            CorruptData: if the file cannot be read.
        """
        try:
            return self._load_npz() if self.key is not None else self._load_mesh()
        except CorruptData:
            raise
        except Exception as error:  # the readers of five formats raise errors of any kind
            raise CorruptData(f"{self} cannot be read ({type(error).__name__}: {error})") from error

    def _load_npz(self) -> tuple[FloatArray, IntArray]:
        with np.load(self.path, allow_pickle=False) as arrays:
            return arrays[f"v{self.key}"].astype(np.float64), arrays[f"f{self.key}"].astype(np.int64)

    def _load_mesh(self) -> tuple[FloatArray, IntArray]:
        import trimesh

        name = MESH_NAME.fullmatch(self.path.name)
        if name is None:
            raise CorruptData(f"{self.path} is not a mesh: its name must end in .off, .obj, .ply or .stl")
        content = self.path.read_bytes()
        if name["packed"]:
            content = gzip.decompress(content)
        mesh = trimesh.load_mesh(io.BytesIO(content), file_type=name["kind"].lower(), process=False)
        return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)


def is_hidden(path: Path, root: Path) -> bool:
    """Return whether a file below `root`, or a folder on the way to it, is hidden or made by macOS for itself."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)


def visible_files(root: Path) -> list[Path]:
    """Return all files below `root`, sorted, without hidden ones (`is_hidden`)."""
    return [path for path in sorted(root.rglob("*")) if not is_hidden(path, root) and path.is_file()]


def folder_sources(root: Path) -> list[MeshSource]:
    """Find the meshes (off, obj, ply, stl, also .gz) right in `root` and in its sub-folders, each a category.

    Hidden files and folders are skipped. Other files are named in a warning.

    Raises:
        MissingData: if there are no meshes.
        CorruptData: if two meshes of a category have the same name, or a mesh lies deeper than a sub-folder.
    """
    if not root.is_dir():
        raise MissingData(f"{root.absolute()} is not a folder; meshes in an archive must be unpacked first")
    sources: dict[tuple[str, str], MeshSource] = {}
    skipped, deep = [], []
    for path in visible_files(root):
        name = MESH_NAME.fullmatch(path.name)
        relative = path.relative_to(root)
        if not name:
            skipped.append(str(relative))
            continue
        if len(relative.parts) > 2:
            deep.append(str(relative))
            continue
        category = path.parent.name if path.parent != root else root.resolve().name
        source = MeshSource(category, name["stem"], path)
        if other := sources.get((category, source.name)):
            raise CorruptData(f"{other} and {source} would both become {category}/{source.name}")
        sources[category, source.name] = source
    if deep:
        raise CorruptData(
            f"{root} has meshes below the folders of categories: {_listed(deep)}. "
            "Move them up to CATEGORY/MESH, or name the folder that has the categories"
        )
    if not sources:
        raise MissingData(f"there are no meshes (*.off, *.obj, *.ply, *.stl, also .gz) in {root.absolute()}")
    if skipped:
        log.warning("skipped files that are not off, obj, ply or stl: %s", _listed(skipped))
    return [*sources.values()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def npz_keys(path: Path) -> list[str]:
    """Return the N of all pairs of vertices vN (V, 3) and faces fN (F, 3) in an .npz file.

    Raises:
        CorruptData: if the file cannot be read or has other arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = set(arrays.files)
    except Exception as error:  # zip files fail in many ways: encrypted, of an unknown method, cut off
        raise CorruptData(f"{path} is not a complete npz file ({type(error).__name__}: {error})") from error
    if odd := sorted(n for n in names if not n.startswith(("v", "f")) or {f"v{n[1:]}", f"f{n[1:]}"} - names):
        raise CorruptData(f"{path} must have pairs of vN and fN; it has {', '.join(map(repr, odd[:LISTED]))}")
    return sorted(name[1:] for name in names if name.startswith("v"))


class PreparedMesh(NamedTuple):
    """A watertight mesh in the unit cube whose normals point out of the solid.

    Args:
        vertices: positions (V, 3) in the unit cube around the origin.
        faces: vertex indices (F, 3).
        frame: `loc` (3,) and `scale` (): a point of the original mesh is scale * point + loc.
        notes: what was changed or decided, for the log.
    """

    vertices: FloatArray
    faces: IntArray
    frame: dict[str, FloatArray | np.float64]
    notes: list[str]


def prepare_mesh(vertices: FloatArray, faces: IntArray, watertight: bool) -> PreparedMesh:
    """Move a mesh to the unit cube and orient its closed parts.

    Args:
        vertices: positions (V, 3).
        faces: vertex indices (F, 3).
        watertight: close the mesh first (`close_mesh`).

    Raises:
        ValueError: if the mesh bounds no solid; the message says why.
        ImportError: if the mesh is to be closed and point-cloud-utils is not installed.
    """
    _check_arrays(vertices, faces)
    vertices, faces = merge_vertices(vertices, faces)
    if not len(faces):
        raise ValueError("all of its faces are points or lines")
    loc, scale = unit_cube_frame(vertices)
    vertices = (vertices - loc) / scale
    if watertight:
        vertices, faces = close_mesh(vertices, faces)
    hint = "" if watertight else "; --watertight closes it"
    found = len(faces)
    faces = drop_repeated_faces(faces)
    notes = [f"dropped {found - len(faces)} of {found} faces, which repeat others"] if len(faces) < found else []
    if not len(faces):
        raise ValueError(f"it encloses nothing: each of its faces is repeated{hint}")
    if count := count_open_edges(faces):
        raise ValueError(f"it is not watertight: {count} edges belong to an odd number of faces{hint}")
    try:
        oriented = orient_outward(vertices, faces)
    except ValueError as error:
        raise ValueError(f"{error}{hint}") from error
    if signed_volumes(vertices, oriented.faces).sum() < 1e-9:
        raise ValueError(f"it encloses nothing: its volume is 0{hint}")
    if np.abs(vertices).max() > BOX:
        raise ValueError(f"closed, it reaches {np.abs(vertices).max():.3f} from the center, out of the box of {BOX}")
    frame: dict[str, FloatArray | np.float64] = {"loc": loc, "scale": np.float64(scale)}
    return PreparedMesh(vertices, oriented.faces, frame, notes + _describe(oriented))


def _check_arrays(vertices: FloatArray, faces: IntArray) -> None:
    if not len(vertices) or not len(faces):
        raise ValueError(f"it is empty: {len(vertices)} vertices, {len(faces)} faces")
    if bad := int((~np.isfinite(vertices)).any(1).sum()):
        raise ValueError(f"{bad} of {len(vertices)} vertices are not finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"faces use the vertices {faces.min()} to {faces.max()} of {len(vertices)}")


def _describe(oriented: Orientation) -> list[str]:
    """Return what a user must know of the parts of a mesh."""
    notes = {
        "turned the normals of": oriented.turned,
        "took as cavities, as their normals point inwards,": oriented.cavities,
        "took as solid, so that they make no difference inside others,": oriented.enclosed,
    }
    return [f"{text} {count} of {oriented.parts} closed parts" for text, count in notes.items() if count]


def close_mesh(vertices: FloatArray, faces: IntArray, resolution: int = 20_000) -> tuple[FloatArray, IntArray]:
    """Wrap a watertight mesh around triangles of any kind, somewhat thicker (Huang et al. 2018).

    Raises:
        ImportError: if point-cloud-utils is not installed.
    """
    try:
        import point_cloud_utils as pcu
    except ImportError as error:
        raise ImportError(
            "meshes are closed by point-cloud-utils, which is not installed: pip install '.[mesh]'"
        ) from error
    vertices, faces = pcu.make_mesh_watertight(vertices, faces, resolution=resolution)
    return merge_vertices(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))


def sample_boundary(
    vertices: FloatArray, faces: IntArray, count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw points uniformly from the boundary of the union of the parts of a mesh.

    Points of a part that lie inside another part are drawn again. Without overlaps the points are those of
    `sample_surface`.

    Returns:
        Points and unit normals that point out of the solid, (count, 3) each.

    Raises:
        ValueError: if hardly any point of the mesh lies on the boundary of a solid.
    """
    points, normals = np.empty((0, 3)), np.empty((0, 3))
    while len(points) < count:
        more, directions = sample_surface(vertices, faces, count if not len(points) else count - len(points), rng)
        outside, inside = (union_contains(vertices, faces, more + side * SKIN * directions) for side in (1, -1))
        kept = inside & ~outside
        if kept.sum() < 0.01 * len(more) and len(more) > 100:
            raise ValueError("it encloses hardly anything: its faces do not bound a solid")
        points, normals = np.concatenate([points, more[kept]]), np.concatenate([normals, directions[kept]])
    return points, normals
