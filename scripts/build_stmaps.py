"""Build spatio-temporal maps of recordings ahead of the runs that use them.

    python -m scripts.build_stmaps ubfc_rppg FOLDER OUT --workers 4
    python -m scripts.build_stmaps own FOLDER OUT --grid 8 --detector blazeface

A run builds its maps itself where they are missing; this does it without a run. A stopped build goes on with the same
command. Use the maps by dataset.maps=OUT. OUT holds colours and motion of patches; with a large --grid they are small
pictures of the faces.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from datasets.download import CorruptData, MissingData
from datasets.faces.build import build_corpus, recordings_of
from datasets.faces.detect import DETECTORS
from datasets.faces.frontend import FrontEnd
from datasets.faces.layouts import LAYOUTS
from scripts.arguments import positive


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=positive, default=1)
    parser.add_argument("--grid", type=positive, default=8, help="patches along each side of the face box")
    parser.add_argument("--detector", choices=DETECTORS, default="ultralight")
    parser.add_argument("--box", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="fixed face box in pixels")
    parser.add_argument(
        "--no-flow", action="store_true", help="leave out optical flow: pulse only, several times faster"
    )
    parser.add_argument("--synchronise", action="store_true", help="estimate the offsets between the cameras' clocks")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    box = tuple(given.box) if given.box else None
    started = time.monotonic()
    try:
        settings = FrontEnd(grid=given.grid, flow=not given.no_flow, box=box)
        recordings = recordings_of(given.layout, given.folder)
        failures = build_corpus(
            recordings,
            given.out,
            settings,
            given.detector,
            given.workers,
            synchronise=given.synchronise or given.layout == "own",
        )
    except (CorruptData, MissingData, ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    built = len(list(given.out.glob("*/meta.yaml")))
    print(f"{given.out}: {built} sessions, {len(failures)} recordings left out, {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
