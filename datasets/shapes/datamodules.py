"""DataModules of sets on disk: ShapeNet as published, and what `build.py` makes of meshes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.download import CorruptData, MissingData, cache_folder, first_existing, missing
from datasets.shapes import layout
from datasets.shapes.base import ShapeDataModule, in_turn
from datasets.shapes.build import Recipe, build
from datasets.shapes.loader import ShapeSet
from datasets.shapes.psb import ORIGINAL, SIMPLIFIED, psb_sources, psb_split
from datasets.shapes.render import in_unit_cube

SHOWN = 1000  # so many shapes take long enough to read for a progress bar
OFF_CENTRE = 0.1  # share of a picture by which a camera may look past its middle


class StoredShapes(ShapeDataModule):
    """A set in the layout of `layout.py`, below the data folder or at an absolute path.

    Yields what `ShapeDataModule` says. Everything is read into memory: with 100,000 points a shape takes 1.8 MB.

    Args:
        folder: where it is. stored_points: of the training shapes, so many points of the volume and of the surface are
            held, the first ones; None: all. views: of the pictures, so many are held, the first ones; None: all.
        workers: threads that read.
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
        for name, value in {"stored_points": stored_points, "views": views}.items():
            if value is not None and value < 1:
                raise ValueError(f"dataset.{name} must be positive, got {value}")
        self.folder, self.stored_points, self.views, self.workers = folder, stored_points, views, workers
        self.known: dict[str, layout.Category] = {}

    @property
    def place(self) -> Path:
        """The root of the set."""
        return self.root / self.folder

    def known_categories(self) -> list[str]:
        if not self.place.is_dir():
            raise MissingData(self.absent())
        self.known = {category.name: category for category in layout.read_categories(self.place)}
        if not self.known:
            raise MissingData(f"{self.place.absolute()} has neither a metadata.yaml nor a CATEGORY/train.lst")
        return list(self.known)

    def absent(self) -> str:
        """What to do where the set is not there."""
        return (
            f"there is no set of shapes in {self.place.absolute()}.\n"
            "python -m scripts.build_shapes MESHES FOLDER makes one; name it by dataset.folder (below the data folder "
            f"{self.root.absolute()}, or absolute), or name another data folder: RUNNER_DATA=<folder>"
        )

    def read(self, part: str, categories: Sequence[str], limit: int | None) -> ShapeSet:
        listed: list[tuple[str, Path]] = []
        for name in categories:
            category = self.known[name]
            layout.check_disjoint(self.place, category)
            folder = self.place / category.folder
            for model in layout.read_split(self.place, category, part):
                if not (folder / model).is_dir():
                    raise MissingData(f"there is no folder {(folder / model).absolute()}, which {part}.lst names")
                listed.append((name, folder / model))
        listed = [listed[place] for place in in_turn([name for name, _ in listed], limit)]
        if not listed:
            return ShapeSet(torch.empty(0, 0, 3), torch.empty(0, 0, dtype=torch.uint8), [], [])
        models = [model for _, model in listed]
        kept = self.stored_points if part == "train" else None
        return ShapeSet(
            names=[str(model.relative_to(self.place)) for model in models],
            categories=[name for name, _ in listed],
            **self._stacked(models, lambda model: self._arrays(model, kept)),
        )

    def read_near(self, shapes: ShapeSet) -> tuple[Tensor, Tensor]:
        def arrays(model: Path) -> dict[str, NDArray]:
            points, occupancies = layout.read_points(model / layout.NEAR)
            return {"points": points, "occupancies": occupancies}

        stacked = self._stacked([self.place / name for name in shapes.names], arrays)
        return stacked["points"], stacked["occupancies"]

    def _arrays(self, model: Path, kept: int | None) -> dict[str, NDArray]:
        """The arrays of a ShapeSet for one model, `kept` of its points."""
        points, occupancies = layout.read_points(model / layout.POINTS)
        surface, normals = layout.read_cloud(model / layout.CLOUD)
        if kept is not None:
            points, occupancies = points[:kept], np.packbits(np.unpackbits(occupancies)[: min(kept, len(points))])
            surface, normals = surface[:kept], normals[:kept]
        arrays = {"points": points, "occupancies": occupancies, "surface": surface, "normals": normals}
        arrays["voxels"] = layout.read_voxels(model / layout.VOXELS)
        if self.inputs == "image":
            paths = layout.image_paths(model)[: self.views]
            pictures = [layout.read_image(path) for path in paths]
            for path, picture in zip(paths, pictures, strict=True):
                if picture.shape != pictures[0].shape:
                    raise CorruptData(f"{path} has {picture.shape[1:]} pixels, {paths[0].name} {pictures[0].shape[1:]}")
            arrays["images"] = np.stack(pictures)
            if (model / layout.IMAGES / layout.CAMERAS).exists():
                arrays |= _cameras(model, paths, arrays["images"])
        return arrays

    def _stacked(self, models: Sequence[Path], arrays: Callable[[Path], dict[str, NDArray]]) -> dict[str, Tensor]:
        """What `arrays` gives for every model, stacked. Raises CorruptData where two models are not of one size."""
        from rich.console import Console
        from rich.progress import track

        first = arrays(models[0])
        stacked = {key: np.empty((len(models), *value.shape), value.dtype) for key, value in first.items()}

        def fill(number: int) -> None:
            found = arrays(models[number])
            check_alike(models[0], first, models[number], found)
            for key, value in found.items():
                stacked[key][number] = value

        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            done = pool.map(fill, range(len(models)))
            if len(models) >= SHOWN:
                done = track(done, "shapes", total=len(models), console=Console(stderr=True), transient=True)
            try:
                for _ in done:
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {key: torch.from_numpy(value) for key, value in stacked.items()}


def check_alike(one: Path, like: Mapping[str, NDArray], model: Path, found: Mapping[str, NDArray]) -> None:
    """Raises CorruptData where the arrays `found` of a model are not those of `one`, by name, shape and dtype."""
    if odd := found.keys() ^ like.keys():
        raise CorruptData(
            f"only one of {one} and {model} has {', '.join(sorted(odd))}: all models of a set must have it, or none"
        )
    for key, value in found.items():
        if (value.shape, value.dtype) != (like[key].shape, like[key].dtype):
            raise CorruptData(
                f"{model} has {key} {value.dtype} {value.shape}, {one} has {like[key].dtype} {like[key].shape}: "
                "a set must be of one size"
            )


def _cameras(model: Path, paths: Sequence[Path], images: NDArray) -> dict[str, NDArray]:
    """`cameras` and `intrinsics` of a ShapeSet for one model and its pictures (V, 3, H, W). Raises CorruptData."""
    path = model / layout.IMAGES / layout.CAMERAS
    views, _, height, width = images.shape
    for number, picture in enumerate(paths):
        if picture.stem.isdecimal() and int(picture.stem) != number:
            raise CorruptData(f"{picture} comes as number {number} of the pictures, which is another one's camera")
    world, camera = layout.read_cameras(path, views)
    try:
        poses = in_unit_cube(world, *layout.read_frame(model / layout.CLOUD))
    except ValueError as error:
        raise CorruptData(f"{path}: {error}") from error
    shares = camera / np.array([width, height, 1.0])[:, None]
    middles = shares[:, :2, 2] / shares[:, 2:, 2]
    for number in np.flatnonzero(~(np.abs(middles - 0.5) <= OFF_CENTRE).all(1)):  # not: what is no number
        column, row = middles[number] * (width, height)
        raise CorruptData(
            f"{path}: camera {number} looks at pixel ({column:g}, {row:g}), far from the middle of its picture of "
            f"{width} x {height} pixels; if the pictures were resized, scale the camera_mat alike, or remove the file"
        )
    return {"cameras": poses.astype(np.float32), "intrinsics": shares.astype(np.float32)}


class ShapeNet(StoredShapes):
    """13 categories of ShapeNet as Mescheder et al. (2019) prepared them; yields what `ShapeDataModule` says."""

    def __init__(self, folder: str = "ShapeNet", **kwargs: Any) -> None:
        super().__init__(folder=folder, **kwargs)

    def absent(self) -> str:
        return (
            f"ShapeNet is not in {self.place.absolute()}.\n"
            "Get it from the authors of Occupancy Networks (github.com/autonomousvision/occupancy_networks says where: "
            "dataset_small_v1.1.zip, 73 GB), and unpack it so that there is\n"
            f"  {self.place.absolute() / 'metadata.yaml'}\n"
            "or name another data folder: RUNNER_DATA=<folder>, or paths.data=<folder>"
        )


class PSB(StoredShapes):
    """Watertight meshes of 19 categories, 20 of each less a few; yields what `ShapeDataModule` says.

    The set is built out of the meshes once, which takes some minutes, and kept in shapes/ below the data folder where
    that is writable, else in the user's cache. Poses differ within a category.

    Args:
        simplified: meshes of 2,000 to 5,000 faces, out of psb380_simplified.npz; else the benchmark's own files N.off.
        built_points: of the volume and of the surface of each shape.
        built_views: pictures of each shape that are rendered, where `inputs` is `image`.
        expect: meshes that there must be; None: as many as there are.
        workers: processes that build, and threads that read.
    """

    def __init__(
        self,
        simplified: bool = True,
        built_points: int = 100_000,
        built_views: int = 24,
        expect: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in {"built_points": built_points, "built_views": built_views}.items():
            if value < 1:
                raise ValueError(f"dataset.{name} must be positive, got {value}")
        views = built_views if kwargs.get("inputs") == "image" else 0
        self.candidates, self.expect = SIMPLIFIED if simplified else ORIGINAL, expect
        self.recipe = Recipe(points=built_points, near=True, views=views)
        name = f"psb{'' if simplified else '-original'}-{built_points}" + (f"-{views}views" if views else "")
        super().__init__(folder=f"shapes/{name}", **kwargs)

    @property
    def place(self) -> Path:
        """Below the data folder where the set is there already, else where it may be built."""
        given = self.root / self.folder
        return given if layout.is_whole(given) else cache_folder(self.root, self.folder)

    def prepare_data(self) -> None:
        place = self.place
        if layout.is_whole(place):
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
        build(sources, place, self.recipe, psb_split, max(self.workers, 1))

    def absent(self) -> str:
        return f"the set of shapes {self.place.absolute()} is not built yet: prepare_data() does it"
