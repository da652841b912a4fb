"""Makes a set of shapes, in the layout of Occupancy Networks' data, out of a folder of triangle meshes.

    python -m scripts.build_shapes MESHES FOLDER [--points 100000] [--near] [--watertight] [--views 24] [--processes 2]

MESHES is a folder with a sub-folder of meshes for each category (.off, .obj, .ply, .stl, also .gz), or with the meshes
right in it, or an .npz file of arrays vN (vertices) and fN (faces), numbered as the Princeton segmentation benchmark
does. A mesh must be watertight, unless --watertight closes it first (which takes point-cloud-utils). The first meshes
of a category are train, then come val, then test.

Stopped, it goes on with the same command. Then: python -m runner ... dataset=shape_folder dataset.folder=FOLDER
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.download import CorruptData, MissingData
from datasets.shapes.build import Recipe, Source, build, folder_sources
from datasets.shapes.psb import psb_sources, psb_split
from datasets.shapes.render import UP
from runner.errors import exit_interrupted


def share_split(sources: Sequence[Source], val: float, test: float) -> Mapping[str, Sequence[Source]]:
    """The last `test` of the meshes (rounded) test, the `val` before them val, the others train.

    Of three and more, either share that is not 0 gets one at least.
    """
    least = int(len(sources) > 2)
    held, watched = (max(round(share * len(sources)), least if share else 0) for share in (test, val))
    end = len(sources) - held
    start = end - watched
    return {"train": sources[:start], "val": sources[start:end], "test": sources[end:]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=100_000, help="of the volume, and of the surface, of each shape")
    parser.add_argument("--near", action="store_true", help="also points of which half are near the surface")
    parser.add_argument("--watertight", action="store_true", help="close every mesh first")
    parser.add_argument("--views", type=int, default=0, help="pictures of each shape")
    parser.add_argument("--up", choices=UP, default="y", help="axis that points up in the pictures (default y)")
    parser.add_argument("--val", type=float, default=0.1, help="share of each category (default 0.1)")
    parser.add_argument("--test", type=float, default=0.2, help="share of each category (default 0.2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args(arguments)
    if min(given.points, given.processes) < 1 or min(given.views, given.seed) < 0:
        parser.error("--points and --processes must be positive, --views and --seed not negative")
    if min(given.val, given.test) < 0 or given.val + given.test >= 1:
        parser.error("--val and --test are shares, and must leave some for training")
    recipe = Recipe(given.points, given.near, given.watertight, given.views, given.up, given.seed)
    try:
        if given.meshes.suffix == ".npz":
            sources, split = psb_sources(given.meshes), psb_split
        else:
            sources = folder_sources(given.meshes)

            def split(members: Sequence[Source]) -> Mapping[str, Sequence[Source]]:
                return share_split(members, given.val, given.test)

        build(sources, given.folder, recipe, split, given.processes)
    except (CorruptData, MissingData, ImportError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        exit_interrupted()
    print(f"{len(sources)} shapes in {given.folder}")
    folder = shlex.quote(str(given.folder.resolve()))
    print(f"  python -m runner method=occnet dataset=shape_folder dataset.folder={folder}")


if __name__ == "__main__":
    main()
