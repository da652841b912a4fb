"""DataModules of sets on disk: ShapeNet as published, and sets that `build` makes out of meshes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.checks import check_positive
from datasets.download import CorruptData, MissingData, cache_folder, first_existing, missing
from datasets.progress import track
from datasets.shapes import shapenet_format as fmt
from datasets.shapes.base import ShapeDataModule, round_robin
from datasets.shapes.build import Recipe, build_dataset
from datasets.shapes.psb import ORIGINAL, SIMPLIFIED, psb_sources, psb_split
from datasets.shapes.render import cameras_in_unit_cube
from datasets.shapes.shape_set import ShapeSet
from datasets.shapes.shapenet_format import Array

OFF_CENTER = 0.1  # share of an image by which a camera may look past its center

Reader = Callable[[Path], dict[str, Array]]  # folder of a model -> its arrays, by the name in ShapeSet


class StoredShapes(ShapeDataModule):
    """A set in the format of `shapenet_format`, below the data folder or at an absolute path.

    Yields what `ShapeDataModule` says. Everything is read into memory: with 100,000 points a shape takes 1.8 MB.

    Args:
        folder: folder of the set.
        stored_points: number of points of the volume, and of the surface, that are kept of each training shape; None:
            all.
        views: number of images that are kept of each shape; None: all.
        workers: number of threads that read.
        **kwargs: arguments of `ShapeDataModule`.
    """

    def __init__(
        self,
        folder: str,
        stored_points: int | None = None,
        views: int | None = None,
        workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(workers=workers, **kwargs)
        check_positive("dataset", stored_points=stored_points, views=views)
        self.folder, self.stored_points, self.views, self.workers = folder, stored_points, views, workers
        self.category_by_name: dict[str, fmt.Category] = {}

    @property
    def set_folder(self) -> Path:
        """Return the folder of the set."""
        return self.root / self.folder

    def available_categories(self) -> list[str]:
        """Return the names of the categories in metadata.yaml, or of all folders with split files.

        Raises:
            MissingData: if the set is not there.
        """
        if not self.set_folder.is_dir():
            raise MissingData(self.missing_message())
        self.category_by_name = {category.name: category for category in fmt.read_categories(self.set_folder)}
        if not self.category_by_name:
            raise MissingData(f"{self.set_folder.absolute()} has neither a metadata.yaml nor a CATEGORY/train.lst")
        return list(self.category_by_name)

    def missing_message(self) -> str:
        """Return what to do if the set is not there."""
        return (
            f"there is no set of shapes in {self.set_folder.absolute()}.\n"
            "python -m scripts.build_shapes MESHES FOLDER builds one; name it by dataset.folder (below the data folder "
            f"{self.root.absolute()}, or absolute), or name another data folder: RUNNER_DATA=<folder>"
        )

    def _models(self, part: str, category_name: str) -> list[Path]:
        """Return the folders of the models of a part of a category."""
        category = self.category_by_name[category_name]
        fmt.check_disjoint(self.set_folder, category)
        folder = self.set_folder / category.folder
        models = [folder / model for model in fmt.read_split(self.set_folder, category, part)]
        if absent := [model for model in models if not model.is_dir()]:
            raise MissingData(f"there is no folder {absent[0].absolute()}, which {part}.lst names")
        return models

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        """Read the shapes of a part, at most `limit` of them."""
        listed = [(name, model) for name in categories for model in self._models(part, name)]
        listed = [listed[place] for place in round_robin([name for name, _ in listed], limit)]
        if not listed:
            return ShapeSet(torch.empty(0, 0, 3), torch.empty(0, 0, dtype=torch.uint8), [], [])
        models = [model for _, model in listed]
        kept = self.stored_points if part == "train" else None
        return ShapeSet(
            names=[str(model.relative_to(self.set_folder)) for model in models],
            categories=[name for name, _ in listed],
            **self._stack(models, lambda model: self._read_model(model, kept)),
        )

    def read_near_points(self, shapes: ShapeSet) -> tuple[Tensor, Tensor]:
        """Read points_surface.npz of each training shape."""

        def read(model: Path) -> dict[str, Array]:
            points, occupancies = fmt.read_points(model / fmt.NEAR_POINTS)
            return {"points": points, "occupancies": occupancies}

        stacked = self._stack([self.set_folder / name for name in shapes.names], read)
        return stacked["points"], stacked["occupancies"]

    def _read_model(self, model: Path, kept: int | None) -> dict[str, Array]:
        """Read the arrays of a model, and keep the first `kept` of its points (None: all)."""
        points, occupancies = fmt.read_points(model / fmt.POINTS)
        surface, normals = fmt.read_point_cloud(model / fmt.POINT_CLOUD)
        if kept is not None:
            points, occupancies = points[:kept], np.packbits(np.unpackbits(occupancies)[: min(kept, len(points))])
            surface, normals = surface[:kept], normals[:kept]
        arrays = {"points": points, "occupancies": occupancies, "surface": surface, "normals": normals}
        arrays["voxels"] = fmt.read_voxels(model / fmt.VOXELS)
        return arrays | (self._read_images(model) if self.inputs == "image" else {})

    def _read_images(self, model: Path) -> dict[str, Array]:
        """Read the images of a model, and their cameras, if it has any."""
        paths = fmt.image_paths(model)[: self.views]
        images = [fmt.read_image(path) for path in paths]
        for path, image in zip(paths, images, strict=True):
            if image.shape != images[0].shape:
                raise CorruptData(f"{path} has {image.shape[1:]} pixels, {paths[0].name} {images[0].shape[1:]}")
        stacked = np.stack(images)
        has_cameras = (model / fmt.IMAGES / fmt.CAMERAS).exists()
        return {"images": stacked} | (_read_cameras(model, paths, stacked) if has_cameras else {})

    def _stack(self, models: Sequence[Path], read: Reader) -> dict[str, Tensor]:
        """Read the arrays of all models by several threads, and stack them.

        Raises:
            CorruptData: if two models differ in the size of an array.
        """
        first = read(models[0])
        stacked = {key: np.empty((len(models), *value.shape), value.dtype) for key, value in first.items()}

        def fill(number: int) -> None:
            arrays = read(models[number])
            check_same_shapes(models[0], first, models[number], arrays)
            for key, value in arrays.items():
                stacked[key][number] = value

        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            try:
                for _ in track(pool.map(fill, range(len(models))), "shapes read", total=len(models)):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {key: torch.from_numpy(value) for key, value in stacked.items()}


def check_same_shapes(first: Path, expected: Mapping[str, Array], model: Path, arrays: Mapping[str, Array]) -> None:
    """Check that the arrays of a model have the names, shapes and dtypes of those of the first model.

    Raises:
        CorruptData: if they do not.
    """
    if odd := arrays.keys() ^ expected.keys():
        raise CorruptData(
            f"only one of {first} and {model} has {', '.join(sorted(odd))}: all models of a set must have it, or none"
        )
    for key, value in arrays.items():
        if (value.shape, value.dtype) != (expected[key].shape, expected[key].dtype):
            raise CorruptData(
                f"{model} has {key} {value.dtype} {value.shape}, {first} has {expected[key].dtype} "
                f"{expected[key].shape}: all models of a set must have arrays of the same size"
            )


def _read_cameras(model: Path, paths: Sequence[Path], images: Array) -> dict[str, Array]:
    """Read `cameras` and `intrinsics` of a model.

    Args:
        model: folder of the model.
        paths: files of the images.
        images: images (V, 3, H, W).

    Raises:
        CorruptData: if the cameras are damaged or do not belong to these images.
    """
    path = model / fmt.IMAGES / fmt.CAMERAS
    views, _, height, width = images.shape
    for number, image in enumerate(paths):
        if image.stem.isdecimal() and int(image.stem) != number:
            raise CorruptData(f"{image} is number {number} among the images, but that camera belongs to another one")
    world, camera = fmt.read_cameras(path, views)
    try:
        poses = cameras_in_unit_cube(world, *fmt.read_frame(model / fmt.POINT_CLOUD))
    except ValueError as error:
        raise CorruptData(f"{path}: {error}") from error
    shares = camera / np.array([width, height, 1.0])[:, None]
    centers = shares[:, :2, 2] / shares[:, 2:, 2]
    for bad in np.flatnonzero(~(np.abs(centers - 0.5) <= OFF_CENTER).all(1)):  # `not <=` holds for NaN too
        column, row = centers[bad] * (width, height)
        raise CorruptData(
            f"{path}: camera {bad} looks at pixel ({column:g}, {row:g}), far from the center of its image of "
            f"{width} x {height} pixels; if the images were resized, scale the camera_mat alike, or remove the file"
        )
    return {"cameras": poses.astype(np.float32), "intrinsics": shares.astype(np.float32)}


class ShapeNet(StoredShapes):
    """13 categories of ShapeNet as Mescheder et al. (2019) prepared them; yields what `ShapeDataModule` says.

    Args:
        folder: folder of the set, below the data folder or absolute.
        **kwargs: arguments of `StoredShapes`.
    """

    def __init__(self, folder: str = "ShapeNet", **kwargs: Any) -> None:
        super().__init__(folder=folder, **kwargs)

    def missing_message(self) -> str:
        """Return where to get ShapeNet and where to put it."""
        return (
            f"ShapeNet is not in {self.set_folder.absolute()}.\n"
            "Get it from the authors of Occupancy Networks (github.com/autonomousvision/occupancy_networks links to "
            "dataset_small_v1.1.zip, 73 GB), and unpack it so that there is\n"
            f"  {self.set_folder.absolute() / fmt.METADATA}\n"
            "or name another data folder: RUNNER_DATA=<folder>, or paths.data=<folder>"
        )


class PSB(StoredShapes):
    """Watertight meshes of 19 categories, 20 of each less a few; yields what `ShapeDataModule` says.

    The set is built out of the meshes once, which takes some minutes, and kept in shapes/ below the data folder if
    that is writable, else in the cache of the user. Poses differ within a category.

    Args:
        simplified: use meshes of 2,000 to 5,000 faces, out of psb380_simplified.npz, not the benchmark's own files
            N.off.
        built_points: number of points in the volume, and on the surface, of each shape.
        built_views: number of images rendered of each shape if `inputs` is `image`.
        expect: number of meshes that must be there; None: any.
        **kwargs: arguments of `StoredShapes`; `workers` is also the number of processes that build.
    """

    def __init__(
        self,
        simplified: bool = True,
        built_points: int = 100_000,
        built_views: int = 24,
        expect: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_positive("dataset", built_points=built_points, built_views=built_views)
        views = built_views if kwargs.get("inputs") == "image" else 0
        self.candidates, self.expect = SIMPLIFIED if simplified else ORIGINAL, expect
        self.recipe = Recipe(points=built_points, near=True, views=views)
        name = f"psb{'' if simplified else '-original'}-{built_points}" + (f"-{views}views" if views else "")
        super().__init__(folder=f"shapes/{name}", **kwargs)

    @property
    def set_folder(self) -> Path:
        """Return the folder below the data folder if the set is there, else where it is to be built."""
        given = self.root / self.folder
        return given if fmt.is_complete(given) else cache_folder(self.root, self.folder)

    def prepare_data(self) -> None:
        """Build the set if it is not there.

        Raises:
            MissingData: if the meshes are not there.
            CorruptData: if they are damaged or of another number than expected.
        """
        folder = self.set_folder
        if fmt.is_complete(folder):
            return
        wanted = [self.root / candidate for candidate in self.candidates]
        if (path := first_existing(*wanted)) is None:
            what = "the watertight meshes of the Princeton segmentation benchmark (its own: segeval.cs.princeton.edu)"
            raise missing(what, wanted, None, self.root)
        sources = psb_sources(path)
        if self.expect is not None and len(sources) != self.expect:
            raise CorruptData(
                f"{path} has {len(sources)} meshes, expected {self.expect} (dataset.expect): "
                "it is damaged or another version"
            )
        build_dataset(sources, folder, self.recipe, psb_split, max(self.workers, 1))

    def missing_message(self) -> str:
        """Return that the set is not built yet."""
        return f"the set of shapes {self.set_folder.absolute()} is not built yet: prepare_data() builds it"
