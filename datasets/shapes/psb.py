"""The watertight meshes of the Princeton segmentation benchmark (Chen et al. 2009; SHREC 2007) as a set of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.download import CorruptData, cache_folder, first_existing, missing
from datasets.shapes import layout
from datasets.shapes.build import Recipe, Source, build, npz_keys
from datasets.shapes.stored import StoredShapes

FILE = "psb380_simplified.npz"
EACH = 20  # models of a category; category i has the numbers EACH * i + 1 to EACH * (i + 1)
CATEGORIES = (
    *("human", "cup", "glasses", "airplane", "ant", "chair", "octopus", "table", "teddy", "hand", "plier", "fish"),
    *("bird", "", "armadillo", "bust", "mech", "bearing", "vase", "fourleg"),  # there is no 14th
)
TRAIN, VAL = 14, 2  # of each category, by number; the others are test


def psb_sources(path: Path) -> list[Source]:
    """The meshes of a file with vertices vN and faces fN, N being the benchmark's number. Raises CorruptData."""
    numbers = sorted(int(key) for key in npz_keys(path) if key.isdecimal())
    known = [n for n in numbers if 1 <= n <= EACH * len(CATEGORIES) and CATEGORIES[(n - 1) // EACH]]
    if not numbers or known != numbers:
        odd = sorted(set(numbers) - set(known)) or "none at all"
        raise CorruptData(f"{path} has meshes of numbers that the benchmark has not: {odd}")
    return [Source(CATEGORIES[(n - 1) // EACH], str(n), path, str(n)) for n in numbers]


def psb_split(sources: Sequence[Source]) -> Mapping[str, Sequence[Source]]:
    """Of each category the first 14 numbers train, the next 2 val, the last 4 test; fewer where models are missing."""
    parts: dict[str, list[Source]] = {"train": [], "val": [], "test": []}
    for source in sources:
        place = (int(source.name) - 1) % EACH
        parts["train" if place < TRAIN else "val" if place < TRAIN + VAL else "test"].append(source)
    return parts


class PSB(StoredShapes):
    """364 watertight meshes of 19 categories, 2,000 to 5,000 faces each; yields what `ShapeDataModule` says.

    The set is built out of meshes/psb380_simplified.npz once, which takes some minutes, and kept in shapes/ below the
    data folder where that is writable, else in the user's cache. Poses differ within a category.

    Args:
        built_points: of the volume and of the surface of each shape. processes: that build.
        built_views: pictures of each shape that are rendered, where `inputs` is `image`.
    """

    def __init__(self, built_points: int = 100_000, built_views: int = 24, processes: int = 1, **kwargs: Any) -> None:
        positive = {"built_points": built_points, "built_views": built_views, "processes": processes}
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"dataset.{name} must be positive, got {value}")
        views = built_views if kwargs.get("inputs") == "image" else 0
        self.recipe, self.processes = Recipe(points=built_points, near=True, views=views), processes
        below = f"shapes/psb-{built_points}" + (f"-{views}views" if views else "")
        super().__init__(folder=below, **kwargs)

    @property
    def place(self) -> Path:
        """Below the data folder where the set is there already, else where it may be built."""
        given = self.root / self.folder
        return given if layout.is_whole(given) else cache_folder(self.root, self.folder)

    def prepare_data(self) -> None:
        place = self.place
        if layout.is_whole(place):
            return
        wanted = [self.root / "meshes" / FILE, self.root / FILE]
        if (path := first_existing(*wanted)) is None:
            raise missing("the meshes of the Princeton segmentation benchmark", wanted, None, self.root)
        build(psb_sources(path), place, self.recipe, psb_split, self.processes)

    def absent(self) -> str:
        return f"the set of shapes {self.place.absolute()} is not built yet: prepare_data() does it"
