"""Sets of shapes on disk as Mescheder et al. (2019) lay them out; every reader refuses what is damaged, by name.

    metadata.yaml                       folder of each category -> {id, name}
    CATEGORY/{train,val,test}.lst       a model a line; no blank lines, a line end after the last one is let pass
    CATEGORY/MODEL/points.npz           points (P, 3) in [-0.55, 0.55]^3, occupancies: bits packed by np.packbits
    CATEGORY/MODEL/points_surface.npz   the same, half of the points near the surface (optional)
    CATEGORY/MODEL/pointcloud.npz       points (S, 3) on the surface, normals (S, 3)
    CATEGORY/MODEL/model.binvox         32^3 voxels
    CATEGORY/MODEL/img_choy2016/000.jpg ...; cameras.npz: world_mat_i (3, 4), camera_mat_i (3, 3)  (optional)

All .npz but the cameras have loc (3,) and scale (): a point of the original mesh is scale * point + loc.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from datasets.download import CorruptData, MissingData
from datasets.shapes.binvox import read_binvox
from datasets.shapes.geometry import BOX, RESOLUTION

PARTS = ("train", "val", "test")
POINTS, NEAR, CLOUD, VOXELS = "points.npz", "points_surface.npz", "pointcloud.npz", "model.binvox"
IMAGES, CAMERAS = "img_choy2016", "cameras.npz"

ROUNDING = 1e-3  # of float16 at the faces of the box
BEYOND = 0.1  # how far points near the surface may lie outside the box

UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, OSError, NotImplementedError)


@dataclass(frozen=True)
class Category:
    """folder: below the root of the set (a WordNet number, say); name: what people call it."""

    folder: str
    name: str


def read_categories(root: Path) -> list[Category]:
    """Those in metadata.yaml, in its order, or every folder with a split file where there is no such file.

    The name is the first of those separated by commas. Raises CorruptData.
    """
    path = root / "metadata.yaml"
    if not path.exists():
        return [Category(folder.name, folder.name) for folder in sorted(root.iterdir()) if list(folder.glob("*.lst"))]
    try:
        listed = yaml.safe_load(path.read_text())
        found = [Category(str(folder), entry["name"].split(",")[0]) for folder, entry in listed.items()]
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise CorruptData(
            f"{path} must map the folder of each category to its id and name: {type(error).__name__} {error}"
        ) from error
    if len({category.name for category in found}) < len(found):
        raise CorruptData(f"{path} gives two categories the same name")
    return found


def is_whole(root: Path) -> bool:
    """Was the set built to its end? metadata.yaml comes last."""
    return (root / "metadata.yaml").exists()


def write_categories(root: Path, categories: Sequence[Category]) -> None:
    listed = {category.folder: {"id": category.folder, "name": category.name} for category in categories}
    (root / "metadata.yaml").write_text(yaml.safe_dump(listed, sort_keys=False))


def read_split(root: Path, category: Category, part: str) -> list[str]:
    """Models of a part, in the order of the file. Raises MissingData, CorruptData."""
    folder = root / category.folder
    if not folder.is_dir():
        raise MissingData(
            f"there is no folder {folder.absolute()} for the category {category.name}; "
            "dataset.categories names those to be read"
        )
    path = folder / f"{part}.lst"
    if not path.exists():
        raise MissingData(f"there is no {path.absolute()}, which lists the {part} part of the category {category.name}")
    try:
        lines = path.read_text().split("\n")
    except UnicodeDecodeError as error:
        raise CorruptData(f"{path} is no text: {error}") from error
    if lines[-1] == "":
        lines.pop()
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() == "":
            raise CorruptData(f"{path}: line {number} is blank; a line must name a model")
        if line != line.strip() or "/" in line or line in (".", ".."):
            raise CorruptData(f"{path}: line {number} is no name of a model: {line!r}")
        if line in seen:
            raise CorruptData(f"{path}: line {number} names {line} again, after line {seen[line]}")
        seen[line] = number
    return lines


def check_disjoint(root: Path, category: Category) -> None:
    """Raises CorruptData where a model is in two parts of a category."""
    owner: dict[str, str] = {}
    for part in PARTS:
        if not (root / category.folder / f"{part}.lst").exists():
            continue
        for model in read_split(root, category, part):
            if model in owner:
                raise CorruptData(f"{root / category.folder}: {model} is both in {owner[model]}.lst and in {part}.lst")
            owner[model] = part


def write_split(root: Path, category: Category, part: str, models: Sequence[str]) -> None:
    (root / category.folder / f"{part}.lst").write_text("\n".join(models))


def read_arrays(path: Path, keys: Sequence[str]) -> dict[str, NDArray]:
    """Arrays of an .npz file by name. Raises MissingData, CorruptData."""
    if not path.exists():
        raise MissingData(f"there is no {path.absolute()}")
    try:
        with np.load(path, allow_pickle=False) as kept:
            if absent := [key for key in keys if key not in kept.files]:
                raise CorruptData(f"{path} has no {', '.join(absent)}; it has {', '.join(kept.files) or 'nothing'}")
            return {key: kept[key] for key in keys}
    except CorruptData:
        raise
    except UNREADABLE as error:
        raise CorruptData(f"{path} is no whole npz file ({type(error).__name__}: {error})") from error


def _check_points(path: Path, key: str, values: NDArray, limit: float | None) -> None:
    """Raises CorruptData where `values` are not (N, 3) finite floats, none of them beyond `limit` along an axis."""
    if values.ndim != 2 or values.shape[1] != 3 or not len(values) or values.dtype.kind != "f":
        raise CorruptData(f"{path}: {key} are {values.dtype} {values.shape}, expected floats (N, 3)")
    sizes = np.abs(values.astype(np.float32))  # float16 is slow to compute with
    farthest = sizes.max()  # NaN where there is one
    if not np.isfinite(farthest):
        bad = int((~np.isfinite(sizes)).any(1).sum())
        raise CorruptData(f"{path}: {bad} of {len(values)} {key} are not finite")
    if limit is not None and farthest > limit:
        raise CorruptData(
            f"{path}: {int((sizes > limit).any(1).sum())} of {len(values)} {key} lie outside "
            f"[-{limit:g}, {limit:g}]^3, the farthest {farthest:g} along an axis"
        )


def read_points(path: Path) -> tuple[NDArray, NDArray[np.uint8]]:
    """Points (P, 3), and occupancies (ceil(P / 8),) packed. Raises MissingData, CorruptData."""
    arrays = read_arrays(path, ("points", "occupancies"))
    points, occupancies = arrays["points"], arrays["occupancies"]
    limit = BOX + ROUNDING + (BEYOND if path.name == NEAR else 0)
    _check_points(path, "points", points, limit)
    if occupancies.shape == (len(points),) and len(points) > 1:  # one a byte, as scripts that pack none write them
        if not np.isin(occupancies, (0, 1)).all():
            raise CorruptData(f"{path}: occupancies must be 0 or 1")
        occupancies = np.packbits(occupancies.astype(bool))
    packed = -(-len(points) // 8)
    if occupancies.dtype != np.uint8 or occupancies.shape != (packed,):
        raise CorruptData(
            f"{path}: occupancies are {occupancies.dtype} {occupancies.shape}, expected {packed} bytes, "
            f"the bits of {len(points)} points"
        )
    return points, occupancies


def read_cloud(path: Path) -> tuple[NDArray, NDArray]:
    """Points on the surface and their normals, (S, 3) each. Raises MissingData, CorruptData."""
    arrays = read_arrays(path, ("points", "normals"))
    points, normals = arrays["points"], arrays["normals"]
    _check_points(path, "points", points, BOX + ROUNDING)
    _check_points(path, "normals", normals, None)
    if points.shape != normals.shape:
        raise CorruptData(f"{path}: {len(points)} points have {len(normals)} normals")
    return points, normals


def read_frame(path: Path) -> tuple[NDArray, float]:
    """loc (3,) and scale of an .npz file: scale * point + loc is a point of the original mesh.

    Raises MissingData, CorruptData.
    """
    arrays = read_arrays(path, ("loc", "scale"))
    loc, scale = arrays["loc"], arrays["scale"]
    numbers = loc.dtype.kind in "fiu" and scale.dtype.kind in "fiu" and loc.shape == (3,) and scale.size == 1
    if not numbers or not np.isfinite(loc).all() or not 0 < scale.item() < np.inf:
        raise CorruptData(f"{path}: loc must be three finite numbers and scale a positive one, got {loc} and {scale}")
    return loc.astype(np.float64), float(scale.item())


def read_voxels(path: Path) -> NDArray[np.uint8]:
    """(4096,): 32^3 voxels, packed. Raises MissingData, CorruptData."""
    if not path.exists():
        raise MissingData(f"there is no {path.absolute()}")
    voxels = read_binvox(path)
    if voxels.shape != (RESOLUTION,) * 3:
        raise CorruptData(f"{path} has {' x '.join(map(str, voxels.shape))} voxels, expected {RESOLUTION} a side")
    return np.packbits(voxels)


def image_paths(model: Path) -> list[Path]:
    """The pictures of a model, in the order of their numbers. Raises MissingData."""
    paths = sorted([*(model / IMAGES).glob("*.jpg"), *(model / IMAGES).glob("*.png")])
    if not paths:
        raise MissingData(f"there are no pictures *.jpg or *.png in {(model / IMAGES).absolute()}")
    return paths


def read_image(path: Path) -> NDArray[np.uint8]:
    """(3, H, W), RGB. Raises CorruptData."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise CorruptData(f"{path} is no whole picture ({error})") from error


def read_cameras(path: Path, views: int) -> tuple[NDArray, NDArray]:
    """world (V, 3, 4), camera (V, 3, 3): K (R p + t) is the pixel, times its depth, of a point p of the original mesh.

    Raises MissingData, CorruptData.
    """
    shapes = {"world": (3, 4), "camera": (3, 3)}
    arrays = read_arrays(path, [f"{kind}_mat_{i}" for kind in shapes for i in range(views)])
    for name, value in arrays.items():
        expected = shapes[name.partition("_")[0]]
        if value.shape != expected or value.dtype.kind != "f" or not np.isfinite(value).all():
            raise CorruptData(f"{path}: {name} is {value.dtype} {value.shape}, expected finite floats {expected}")
    world, camera = (np.stack([arrays[f"{kind}_mat_{i}"] for i in range(views)]) for kind in shapes)
    return world, camera


def write_points(path: Path, points: NDArray, inside: NDArray[np.bool_], frame: Mapping[str, NDArray]) -> None:
    """points.npz or points_surface.npz. frame: loc (3,), scale ()."""
    np.savez(path, points=points.astype(np.float16), occupancies=np.packbits(inside), **frame)


def write_cloud(path: Path, points: NDArray, normals: NDArray, frame: Mapping[str, NDArray]) -> None:
    """pointcloud.npz. frame: loc (3,), scale ()."""
    np.savez(path, points=points.astype(np.float16), normals=normals.astype(np.float16), **frame)


def write_cameras(path: Path, world: Sequence[NDArray], camera: Sequence[NDArray]) -> None:
    kept = {f"world_mat_{i}": matrix for i, matrix in enumerate(world)}
    np.savez(path, **kept, **{f"camera_mat_{i}": matrix for i, matrix in enumerate(camera)})
