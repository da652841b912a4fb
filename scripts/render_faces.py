"""Render synthetic sessions as videos, to try out the way from video to rates without filming anybody.

    python -m scripts.render_faces OUT --sessions 6 --seconds 20
    python -m runner method=calibrationphys dataset=face_folder dataset.folder=OUT 'dataset.box=[51,19,58,62]'

The drawn face is not one that a face detector finds: the printed box must be given.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from datasets.faces.rendering import render_session
from datasets.faces.scene import PROFILES, SceneSettings
from datasets.progress import track
from scripts.arguments import not_negative, not_negative_number, positive, positive_number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sessions", type=positive, default=6)
    parser.add_argument("--seconds", type=positive_number, default=31.0)
    parser.add_argument("--level", type=not_negative_number, default=1.0, help="head motion and ambient light")
    parser.add_argument("--amplitude", type=not_negative_number, help="relative deviation of the pulse in green")
    parser.add_argument(
        "--cameras", nargs="+", default=["webcam", "phone"], choices=[n for n in PROFILES if n != "nir"]
    )
    parser.add_argument("--seed", type=not_negative, default=0)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = SceneSettings(seconds=given.seconds, level=given.level, amplitude=given.amplitude)
    settings.check()
    boxes = {}
    for k in track(range(given.sessions), "sessions rendered"):
        boxes = render_session((given.seed, k), settings, given.out / f"session{k:03d}", given.cameras)
    print(f"{given.out}: {given.sessions} sessions; face box x,y,width,height: {next(iter(boxes.values()), None)}")


if __name__ == "__main__":
    main()
