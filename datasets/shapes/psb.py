"""The watertight meshes of the Princeton segmentation benchmark (Chen et al. 2009; SHREC 2007) as a set of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.download import CorruptData
from datasets.shapes.build import MESHES, Source, npz_keys

SIMPLIFIED = ("meshes/psb380_simplified.npz", "psb380_simplified.npz")  # where it may be, below the data folder
ORIGINAL = ("meshes/psb_off", "MeshsegBenchmark-1.0/data/off", "meshes/MeshsegBenchmark-1.0/data/off")
EACH = 20  # models of a category; category i has the numbers EACH * i + 1 to EACH * (i + 1)
CATEGORIES = (
    *("human", "cup", "glasses", "airplane", "ant", "chair", "octopus", "table", "teddy", "hand", "plier", "fish"),
    *("bird", "", "armadillo", "bust", "mech", "bearing", "vase", "fourleg"),  # there is no 14th
)
TRAIN, VAL = 14, 2  # of each category, by number; the others are test


def psb_sources(path: Path) -> list[Source]:
    """The meshes of a file with vertices vN and faces fN, or of files N.off (or .gz) in a folder, by their number.

    N is the benchmark's number. Raises CorruptData for numbers that it has not, twice the same, or none.
    """
    if path.is_dir():
        found = [
            (name["stem"], file, None)
            for file in sorted(path.rglob("*"))
            if (name := MESHES.fullmatch(file.name)) and name["stem"].isdecimal() and file.is_file()
        ]
    else:
        found = [(key, path, key) for key in npz_keys(path)]
    sources = {}
    for number, file, key in found:
        place = int(number) - 1 if number.isdecimal() else -1
        if not 0 <= place < EACH * len(CATEGORIES) or not CATEGORIES[place // EACH]:
            raise CorruptData(f"{file} has the mesh {number}; the benchmark has none of this number")
        if place in sources:
            raise CorruptData(f"{file} and {sources[place]} have the same number")
        sources[place] = Source(CATEGORIES[place // EACH], str(place + 1), file, key)
    if not sources:
        raise CorruptData(f"{path} has no meshes of the benchmark")
    return [sources[place] for place in sorted(sources)]


def psb_split(sources: Sequence[Source]) -> Mapping[str, Sequence[Source]]:
    """Of each category the first 14 numbers train, the next 2 val, the last 4 test; fewer where models are missing."""
    parts: dict[str, list[Source]] = {"train": [], "val": [], "test": []}
    for source in sources:
        place = (int(source.name) - 1) % EACH
        parts["train" if place < TRAIN else "val" if place < TRAIN + VAL else "test"].append(source)
    return parts
