"""Sets of shapes on disk in the format of Mescheder et al. (2019). All readers refuse damaged files and name them.

    metadata.yaml                       folder of each category -> {id, name}
    CATEGORY/{train,val,test}.lst       one model per line; no blank lines, but the last line may end with a newline
    CATEGORY/MODEL/points.npz           points (P, 3) in [-0.55, 0.55]^3; occupancies: bits packed by np.packbits
    CATEGORY/MODEL/points_surface.npz   the same, half of the points near the surface (optional)
    CATEGORY/MODEL/pointcloud.npz       points (S, 3) on the surface, normals (S, 3)
    CATEGORY/MODEL/model.binvox         32^3 voxels
    CATEGORY/MODEL/img_choy2016/000.jpg ...; cameras.npz: world_mat_i (3, 4), camera_mat_i (3, 3)  (optional)

All .npz files but the cameras have loc (3,) and scale (): a point of the original mesh is scale * point + loc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from datasets.download import CorruptData, MissingData
from datasets.files import atomic_write
from datasets.images import decode
from datasets.shapes.binvox import read_binvox
from datasets.shapes.geometry import BOX, RESOLUTION

PARTS = ("train", "val", "test")
METADATA = "metadata.yaml"
POINTS, NEAR_POINTS, POINT_CLOUD, VOXELS = "points.npz", "points_surface.npz", "pointcloud.npz", "model.binvox"
IMAGES, CAMERAS = "img_choy2016", "cameras.npz"

ROUNDING = 1e-3  # rounding of float16 at the faces of the box
NEAR_MARGIN = 0.1  # distance by which points near the surface may lie outside the box

Array = NDArray[Any]


@dataclass(frozen=True)
class Category:
    """A category of shapes.

    Args:
        folder: folder below the root of the set, for ShapeNet a WordNet number.
        name: name for people.
    """

    folder: str
    name: str


def read_categories(root: Path) -> list[Category]:
    """Read the categories in metadata.yaml, in its order; without this file, every folder with a split file is one.

    ShapeNet lists synonyms separated by commas, of which the first is taken. A name that is the name of the folder is
    taken as it is.

    Raises:
        CorruptData: if metadata.yaml is damaged or two categories have the same name.
    """
    path = root / METADATA
    if not path.exists():
        folders = (folder for folder in sorted(root.iterdir()) if not folder.name.startswith("."))
        return [Category(folder.name, folder.name) for folder in folders if list(folder.glob("*.lst"))]
    try:
        listed = yaml.safe_load(path.read_text())
        categories = [Category(str(folder), _first_name(str(folder), entry)) for folder, entry in listed.items()]
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise CorruptData(
            f"{path} must map the folder of each category to its id and name: {type(error).__name__} {error}"
        ) from error
    if len({category.name for category in categories}) < len(categories):
        raise CorruptData(f"{path} gives two categories the same name")
    return categories


def _first_name(folder: str, entry: Mapping[str, str]) -> str:
    return folder if entry["name"] == folder else entry["name"].split(",")[0]


def is_complete(root: Path) -> bool:
    """Return whether the set was built to its end: metadata.yaml is written last."""
    return (root / METADATA).exists()


def write_categories(root: Path, categories: Sequence[Category]) -> None:
    """Write metadata.yaml."""
    listed = {category.folder: {"id": category.folder, "name": category.name} for category in categories}
    with atomic_write(root / METADATA) as temporary:
        temporary.write_text(yaml.safe_dump(listed, sort_keys=False))


def read_split(root: Path, category: Category, part: str) -> list[str]:
    """Read the names of the models of a part, in the order of the file.

    Raises:
        MissingData: if the folder of the category or the list is not there.
        CorruptData: if the list is damaged.
    """
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
        raise CorruptData(f"{path} is not a text file: {error}") from error
    if lines[-1] == "":
        lines.pop()
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() == "":
            raise CorruptData(f"{path}: line {number} is blank; each line must name a model")
        if line != line.strip() or "/" in line or line in (".", ".."):
            raise CorruptData(f"{path}: line {number} is not the name of a model: {line!r}")
        if line in first_line:
            raise CorruptData(f"{path}: line {number} names {line} again, after line {first_line[line]}")
        first_line[line] = number
    return lines


def check_disjoint(root: Path, category: Category) -> None:
    """Check that no model is in two parts of a category.

    Raises:
        CorruptData: if one is.
    """
    owner: dict[str, str] = {}
    for part in PARTS:
        if not (root / category.folder / f"{part}.lst").exists():
            continue
        for model in read_split(root, category, part):
            if model in owner:
                raise CorruptData(f"{root / category.folder}: {model} is both in {owner[model]}.lst and in {part}.lst")
            owner[model] = part


def write_split(root: Path, category: Category, part: str, models: Sequence[str]) -> None:
    """Write the list of the models of a part."""
    with atomic_write(root / category.folder / f"{part}.lst") as temporary:
        temporary.write_text("\n".join(models))


def read_arrays(path: Path, keys: Sequence[str]) -> dict[str, Array]:
    """Read arrays of an .npz file by name.

    Raises:
        MissingData: if the file is not there.
        CorruptData: if it cannot be read or lacks an array.
    """
    if not path.exists():
        raise MissingData(f"there is no {path.absolute()}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if absent := [key for key in keys if key not in arrays.files]:
                raise CorruptData(f"{path} has no {', '.join(absent)}; it has {', '.join(arrays.files) or 'nothing'}")
            return {key: arrays[key] for key in keys}
    except CorruptData:
        raise
    except Exception as error:  # zip files fail in many ways: encrypted, of an unknown method, cut off
        raise CorruptData(f"{path} is not a complete npz file ({type(error).__name__}: {error})") from error


def _check_vectors(path: Path, key: str, values: Array, limit: float | None) -> None:
    """Check that `values` are finite floats (N, 3), none of them beyond `limit` along an axis.

    Raises:
        CorruptData: if they are not.
    """
    if values.ndim != 2 or values.shape[1] != 3 or not len(values) or values.dtype.kind != "f":
        raise CorruptData(f"{path}: {key} are {values.dtype} {values.shape}, expected floats (N, 3)")
    sizes = np.abs(values.astype(np.float32))  # float16 is slow to compute with
    farthest = sizes.max()  # NaN if one is NaN
    if not np.isfinite(farthest):
        bad = int((~np.isfinite(sizes)).any(1).sum())
        raise CorruptData(f"{path}: {bad} of {len(values)} {key} are not finite")
    if limit is not None and farthest > limit:
        raise CorruptData(
            f"{path}: {int((sizes > limit).any(1).sum())} of {len(values)} {key} lie outside "
            f"[-{limit:g}, {limit:g}]^3, the farthest {farthest:g} along an axis"
        )


def read_points(path: Path) -> tuple[Array, NDArray[np.uint8]]:
    """Read query points (P, 3) and their packed occupancies (ceil(P / 8),).

    Raises:
        MissingData: if the file is not there.
        CorruptData: if it is damaged.
    """
    arrays = read_arrays(path, ("points", "occupancies"))
    points, occupancies = arrays["points"], arrays["occupancies"]
    limit = BOX + ROUNDING + (NEAR_MARGIN if path.name == NEAR_POINTS else 0)
    _check_vectors(path, "points", points, limit)
    if occupancies.shape == (len(points),) and len(points) > 1:  # one per byte, as scripts that do not pack write them
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


def read_point_cloud(path: Path) -> tuple[Array, Array]:
    """Read points on the surface and their normals, (S, 3) each.

    Raises:
        MissingData: if the file is not there.
        CorruptData: if it is damaged.
    """
    arrays = read_arrays(path, ("points", "normals"))
    points, normals = arrays["points"], arrays["normals"]
    _check_vectors(path, "points", points, BOX + ROUNDING)
    _check_vectors(path, "normals", normals, None)
    if points.shape != normals.shape:
        raise CorruptData(f"{path}: {len(points)} points have {len(normals)} normals")
    return points, normals


def read_frame(path: Path) -> tuple[Array, float]:
    """Read loc (3,) and scale of an .npz file: scale * point + loc is a point of the original mesh.

    Raises:
        MissingData: if the file is not there.
        CorruptData: if it is damaged.
    """
    arrays = read_arrays(path, ("loc", "scale"))
    loc, scale = arrays["loc"], arrays["scale"]
    numbers = loc.dtype.kind in "fiu" and scale.dtype.kind in "fiu" and loc.shape == (3,) and scale.size == 1
    if not numbers or not np.isfinite(loc).all() or not 0 < scale.item() < np.inf:
        raise CorruptData(f"{path}: loc must be three finite numbers and scale a positive one, got {loc} and {scale}")
    return loc.astype(np.float64), float(scale.item())


def read_voxels(path: Path) -> NDArray[np.uint8]:
    """Read 32^3 voxels as packed bits (4096,).

    Raises:
        MissingData: if the file is not there.
        CorruptData: if it is damaged or of another resolution.
    """
    if not path.exists():
        raise MissingData(f"there is no {path.absolute()}")
    voxels = read_binvox(path)
    if voxels.shape != (RESOLUTION,) * 3:
        raise CorruptData(f"{path} has {' x '.join(map(str, voxels.shape))} voxels, expected {RESOLUTION} per axis")
    return np.packbits(voxels)


def image_paths(model: Path) -> list[Path]:
    """Return the images of a model, in the order of their numbers.

    Raises:
        MissingData: if there are none.
    """
    folder = model / IMAGES
    paths = [path for path in (*folder.glob("*.jpg"), *folder.glob("*.png")) if not path.name.startswith(".")]
    if not paths:
        raise MissingData(f"there are no images *.jpg or *.png in {folder.absolute()}")
    return sorted(paths)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image of any mode as RGB (3, H, W). Raises CorruptData if it is damaged or its range is not known."""
    return decode.read_image(path, channels=3, size=None).numpy()


def read_cameras(path: Path, views: int) -> tuple[Array, Array]:
    """Read the cameras of the views of a model.

    Returns:
        world (V, 3, 4) and camera (V, 3, 3): for world matrix [R | t] and camera matrix K, K (R p + t) is the pixel,
        times its depth, of a point p of the original mesh.

    Raises:
        MissingData: if the file is not there.
        CorruptData: if it is damaged.
    """
    shapes = {"world": (3, 4), "camera": (3, 3)}
    arrays = read_arrays(path, [f"{kind}_mat_{i}" for kind in shapes for i in range(views)])
    for name, value in arrays.items():
        expected = shapes[name.partition("_")[0]]
        if value.shape != expected or value.dtype.kind != "f" or not np.isfinite(value).all():
            raise CorruptData(f"{path}: {name} is {value.dtype} {value.shape}, expected finite floats {expected}")
    world, camera = (np.stack([arrays[f"{kind}_mat_{i}"] for i in range(views)]) for kind in shapes)
    return world, camera


def write_points(path: Path, points: Array, inside: NDArray[np.bool_], frame: Mapping[str, Any]) -> None:
    """Write points.npz or points_surface.npz.

    Args:
        path: file.
        points: query points (P, 3).
        inside: occupancy (P,).
        frame: loc (3,) and scale ().
    """
    np.savez(path, points=points.astype(np.float16), occupancies=np.packbits(inside), **frame)


def write_point_cloud(path: Path, points: Array, normals: Array, frame: Mapping[str, Any]) -> None:
    """Write pointcloud.npz.

    Args:
        path: file.
        points: points (S, 3) on the surface.
        normals: unit normals (S, 3).
        frame: loc (3,) and scale ().
    """
    np.savez(path, points=points.astype(np.float16), normals=normals.astype(np.float16), **frame)


def write_cameras(path: Path, world: Sequence[Array], camera: Sequence[Array]) -> None:
    """Write cameras.npz: the world matrix (3, 4) and the camera matrix (3, 3) of each view."""
    matrices: dict[str, Any] = {f"world_mat_{i}": matrix for i, matrix in enumerate(world)}
    np.savez(path, **matrices | {f"camera_mat_{i}": matrix for i, matrix in enumerate(camera)})
