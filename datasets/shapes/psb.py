"""The watertight meshes of the Princeton segmentation benchmark (Chen et al. 2009; SHREC 2007) as a set of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.download import CorruptData
from datasets.shapes.build import Source, npz_keys

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
