"""Build a set of shapes, in the format of the data of Occupancy Networks, from triangle meshes.

    python -m scripts.build_shapes MESHES FOLDER [--points 100000] [--near] [--watertight] [--views 24] [--processes 2]

MESHES is a folder with a sub-folder of meshes for each category (.off, .obj, .ply, .stl, also .gz), or with the meshes
right in it, or an .npz file of arrays vN (vertices) and fN (faces), numbered as in the Princeton segmentation
benchmark. Hidden files and folders are skipped.

A mesh must be watertight, unless --watertight closes it first (needs point-cloud-utils). A mesh may have several closed
parts; the shape is their union. A part whose normals point inwards is a cavity if it lies inside another part;
otherwise it is turned, and a note says so.

The first meshes of a category are training shapes, then come validation and test. A build that was stopped continues
with the same command. Then: python -m runner ... dataset=shape_folder dataset.folder=FOLDER
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from datasets.download import CorruptData, MissingData
from datasets.shapes.build import Recipe, Split, build_dataset
from datasets.shapes.meshes import MeshSource, folder_sources
from datasets.shapes.psb import psb_sources, psb_split
from datasets.shapes.render import UP_AXES
from runner.errors import exit_interrupted
from scripts.arguments import not_negative, positive


def split_by_share(sources: Sequence[MeshSource], val: float, test: float) -> Mapping[str, Sequence[MeshSource]]:
    """Split the meshes of a category: the last ones are test, those before them val, the others train.

    Args:
        sources: meshes.
        val: share of validation shapes, rounded. Of three and more meshes it gets at least one unless it is 0.
        test: share of test shapes, likewise.
    """
    least = int(len(sources) > 2)
    test_count, val_count = (max(round(share * len(sources)), least if share else 0) for share in (test, val))
    end = len(sources) - test_count
    start = end - val_count
    return {"train": sources[:start], "val": sources[start:end], "test": sources[end:]}


def override_value(path: Path) -> str:
    """Quote a path as the value of an override, for Hydra's grammar and the shell."""
    text = str(path)
    if re.fullmatch(r"[\w/.-]+", text):
        return text
    escaped = re.sub(r"(\\+)(?=\"|$)", r"\1\1", text).replace('"', '\\"')
    return shlex.quote(f'"{escaped}"')


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--points", type=positive, default=100_000, help="points in the volume, and on the surface, per shape"
    )
    parser.add_argument("--near", action="store_true", help="also write points of which half are near the surface")
    parser.add_argument("--watertight", action="store_true", help="close every mesh first")
    parser.add_argument("--views", type=not_negative, default=0, help="rendered images per shape (default 0)")
    parser.add_argument("--up", choices=UP_AXES, default="y", help="axis that points up in the images (default y)")
    parser.add_argument("--val", type=float, default=0.1, help="share of each category for validation (default 0.1)")
    parser.add_argument("--test", type=float, default=0.2, help="share of each category for test (default 0.2)")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of all random draws (default 0)")
    parser.add_argument(
        "--processes", type=positive, default=os.cpu_count(), help="processes that build (default: all cores)"
    )
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if min(options.val, options.test) < 0 or options.val + options.test >= 1:
        parser.error("--val and --test are shares, and must leave some for training")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the set, and print the command that uses it."""
    options = parse(arguments)
    recipe = Recipe(options.points, options.near, options.watertight, options.views, options.up, options.seed)
    split: Split = psb_split
    try:
        if options.meshes.suffix == ".npz":
            sources = psb_sources(options.meshes)
        else:
            sources = folder_sources(options.meshes)
            split = partial(split_by_share, val=options.val, test=options.test)
        build_dataset(sources, options.folder, recipe, split, options.processes)
    except (CorruptData, MissingData, ImportError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        exit_interrupted()
    print(f"{len(sources)} shapes in {options.folder}")
    folder = override_value(options.folder.resolve())
    print(f"  python -m runner method=occnet dataset=shape_folder dataset.folder={folder}")


if __name__ == "__main__":
    main()
