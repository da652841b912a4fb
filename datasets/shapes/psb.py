"""Watertight meshes of the Princeton segmentation benchmark (Chen et al. 2009; SHREC 2007) as a set of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.download import CorruptData
from datasets.shapes.meshes import MESH_NAME, MeshSource, npz_keys, visible_files

SIMPLIFIED = ("meshes/psb380_simplified.npz", "psb380_simplified.npz")  # candidate places below the data folder
ORIGINAL = ("meshes/psb_off", "MeshsegBenchmark-1.0/data/off", "meshes/MeshsegBenchmark-1.0/data/off")
PER_CATEGORY = 20  # models; category i has the numbers PER_CATEGORY * i + 1 to PER_CATEGORY * (i + 1)
CATEGORIES = (
    *("human", "cup", "glasses", "airplane", "ant", "chair", "octopus", "table", "teddy", "hand", "plier", "fish"),
    *("bird", "", "armadillo", "bust", "mech", "bearing", "vase", "fourleg"),  # the benchmark has no 14th category
)
TRAIN, VAL = 14, 2  # models of each category, by number; the others are test models


def psb_sources(path: Path) -> list[MeshSource]:
    """Find the meshes of the benchmark, sorted by number.

    Args:
        path: .npz file with vertices vN and faces fN, or a folder with files N.off (or .gz); N is the number.

    Raises:
        CorruptData: if there are no meshes, a number twice, or a number that the benchmark does not have.
    """
    sources: dict[int, MeshSource] = {}
    for number, file, key in _candidates(path):
        place = int(number) - 1 if number.isdecimal() else -1
        if not 0 <= place < PER_CATEGORY * len(CATEGORIES) or not CATEGORIES[place // PER_CATEGORY]:
            raise CorruptData(f"{file} has the mesh {number}; the benchmark has no mesh of this number")
        if place in sources:
            raise CorruptData(f"{file} and {sources[place]} have the same number")
        sources[place] = MeshSource(CATEGORIES[place // PER_CATEGORY], str(place + 1), file, key)
    if not sources:
        raise CorruptData(f"{path} has no meshes of the benchmark")
    return [sources[place] for place in sorted(sources)]


def _candidates(path: Path) -> list[tuple[str, Path, str | None]]:
    """Return number, file and key of each mesh in an .npz file or below a folder, hidden files left out."""
    if not path.is_dir():
        return [(key, path, key) for key in npz_keys(path)]
    names = [(file, MESH_NAME.fullmatch(file.name)) for file in visible_files(path)]
    return [(name["stem"], file, None) for file, name in names if name and name["stem"].isdecimal()]


def psb_split(sources: Sequence[MeshSource]) -> Mapping[str, Sequence[MeshSource]]:
    """Split the meshes of a category: the first 14 numbers train, the next 2 val, the last 4 test.

    Parts are smaller where models are missing.
    """
    parts: dict[str, list[MeshSource]] = {"train": [], "val": [], "test": []}
    for source in sources:
        place = (int(source.name) - 1) % PER_CATEGORY
        parts["train" if place < TRAIN else "val" if place < TRAIN + VAL else "test"].append(source)
    return parts
