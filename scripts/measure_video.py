"""Measure heart and respiratory rate on a video of a face.

    python -m scripts.measure_video VIDEO                                  # pulse by POS, respiration by optical flow
    python -m scripts.measure_video VIDEO --run <folder or id>             # by the networks of a trained run
    python -m scripts.measure_video webcam.mp4 phone.mp4 --run RUN         # one face, two cameras: they must agree
    python -m scripts.measure_video VIDEO --pulse chrom --respiration none --window 20

Writes into outputs/measured/<name>/ (or --out): rates.csv (per window, with quality), pulse.csv and respiration.csv
(the waves), pulse.png and respiration.png. No image of the video is written, save with --show-face.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datasets.faces.detect import DETECTORS, make_detector
from datasets.faces.frontend import FrontEnd, build_map, find_faces
from datasets.faces.session import CameraMap
from datasets.faces.sync import estimate_offset
from datasets.faces.video import open_frames
from methods.calibrationphys.predictor import (
    FORMULAS,
    Measurement,
    Predictor,
    camera_of,
    described_by,
    flicker_rate,
    formula_predictor,
    measure,
    network_predictor,
)
from methods.calibrationphys.report import NAMES, plot_measurement, summary_lines, write_rates, write_waves
from runner.errors import UserError
from scripts.arguments import positive, positive_number

log = logging.getLogger(__name__)
WINDOWS = {"pulse": 10.0, "resp": 30.0}


def read_maps(videos: Sequence[Path], detector: str, settings: FrontEnd) -> dict[str, CameraMap]:
    """Return the map of each video, their clocks put together.

    Args:
        videos: videos of one face, taken at the same time.
        detector: name of the face detector.
        settings: what is measured.
    """
    faces = None if settings.box else make_detector(detector)
    maps: dict[str, CameraMap] = {}
    for path in videos:
        camera_map = build_map(open_frames(path), faces, settings)
        if maps:
            reference = next(iter(maps.values()))
            offset = estimate_offset(reference, camera_map)
            if offset.trusted:
                log.info(
                    "%s: clock put %+.2f s (correlation of the motion %.2f)", path, offset.seconds, offset.correlation
                )
                camera_map.t = camera_map.t + offset.seconds
            else:
                log.warning(
                    "%s: no offset to the clock of the first video was found (correlation %.2f)",
                    path,
                    offset.correlation,
                )
        maps[camera_of(path)] = camera_map
    return maps


def run_predictor(reference: str, outputs: str, cameras: Sequence[str] | None, videos: Sequence[str]) -> Predictor:
    """Return the networks of a finished run.

    Args:
        reference: folder or id of the run, or its overrides.
        outputs: folder of all runs.
        cameras: camera of the run for each video; None: of the video's name, or in the run's order if no name is known.
        videos: cameras that the videos are named after.

    Raises:
        ValueError: it is not clear which network measures which video.
    """
    from runner.config.instantiate import instantiate
    from runner.loading import load

    finished = load(reference, outputs)
    checkpoint = finished.checkpoint
    known = list(described_by(checkpoint)["dims"]["channels"])
    if cameras is None:
        cameras = known[: len(videos)] if set(videos).isdisjoint(known) else list(videos)
    if len(cameras) != len(videos) or not set(cameras) <= set(known):
        raise ValueError(f"--camera needs a name for each of the {len(videos)} videos; the run has {', '.join(known)}")
    for video, camera in zip(videos, cameras, strict=True):
        log.info("%s is measured by the network of camera %s", video, camera)
    build = partial(instantiate, finished.config, "model")
    return network_predictor(finished.folder.name, checkpoint, build, dict(zip(videos, cameras, strict=True)))


def choose_predictors(given: argparse.Namespace, videos: Sequence[str]) -> dict[str, Predictor]:
    """Return what measures each signal: the runs that are given, else formulas."""
    chosen: dict[str, Predictor] = {}
    for reference in given.run or ():
        predictor = run_predictor(reference, given.outputs, given.camera, videos)
        chosen[predictor.signal] = predictor
    for signal, name in (("pulse", given.pulse), ("resp", given.respiration)):
        if name != "none" and signal not in chosen:
            chosen[signal] = formula_predictor(name)
    return {signal: chosen[signal] for signal in ("pulse", "resp") if signal in chosen}


def save_face(video: Path, detector: str, settings: FrontEnd, path: Path) -> None:
    """Write the first frame of a video with the face box, for the reader who asked for it."""
    from PIL import Image, ImageDraw

    frames = open_frames(video)
    faces = find_faces(frames, None if settings.box else make_detector(detector), settings)
    _, handle = next(iter(frames))
    image = Image.fromarray(frames.image(handle))
    x, y, width, height = np.median(faces.boxes, axis=0)
    ImageDraw.Draw(image).rectangle((x, y, x + width, y + height), outline="yellow", width=3)
    image.save(path)


def write_all(measurements: list[Measurement], out: Path) -> None:
    """Write tables and figures."""
    from runner.execution.plot_style import pyplot

    out.mkdir(parents=True, exist_ok=True)
    write_rates(measurements, out / "rates.csv")
    with pyplot() as plt:
        for measurement in measurements:
            name = NAMES[measurement.signal]
            write_waves(measurement, out / f"{name}.csv")
            figure = plot_measurement(measurement)
            figure.savefig(out / f"{name}.png")
            plt.close(figure)


def measure_signals(
    predictors: dict[str, Predictor], maps: dict[str, CameraMap], given: argparse.Namespace, name: str
) -> list[Measurement]:
    """Return the measurements; a video that is too short for one signal is said, if there is another one."""
    measurements, failures = [], []
    for signal, predictor in predictors.items():
        window = given.window or WINDOWS[signal]
        try:
            measurements.append(measure(maps, predictor, window, given.step, name))
        except ValueError as error:
            failures.append(f"{NAMES[signal]}: {error}")
    if not measurements:
        raise ValueError("\n".join(failures))
    for failure in failures:
        log.warning("left out: %s", failure)
    return measurements


def warn_of_flicker(measurement: Measurement, maps: dict[str, CameraMap]) -> None:
    """Say where the light beside the face has the rate that was measured on it."""
    for camera, rates in measurement.rates.items():
        rate = flicker_rate(maps[camera], float(np.median(rates)), measurement.readout)
        if rate is not None:
            log.warning(
                "%s: the light beside the face pulses with %.1f per minute too: this may be a screen or a lamp, no %s",
                camera,
                rate,
                NAMES[measurement.signal],
            )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--run", action="append", help="trained run: folder, id or overrides; may be given twice")
    parser.add_argument("--camera", nargs="+", help="camera of the run, for each video")
    parser.add_argument("--pulse", default="pos", choices=(*FORMULAS["pulse"], "none"))
    parser.add_argument("--respiration", default="flowmean", choices=(*FORMULAS["resp"], "none"))
    parser.add_argument(
        "--window", type=positive_number, help="seconds of a window; default: 10 for the pulse, 30 for respiration"
    )
    parser.add_argument("--step", type=positive_number, default=1.0, help="seconds between two windows")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--outputs", default="outputs", help="folder of the runs")
    parser.add_argument("--grid", type=positive, default=8, help="patches along each side, as the run was trained with")
    parser.add_argument("--detector", choices=DETECTORS, default="ultralight")
    parser.add_argument("--box", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="fixed face box in pixels")
    parser.add_argument(
        "--show-face", action="store_true", help="also write face.png, a frame of the video with the box"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.monotonic()
    names = [camera_of(path) for path in given.videos]
    first = given.videos[0]
    own = f"{first.absolute().parent.name}_{first.stem}" if first.stem.startswith("cam_") else first.stem
    out = given.out or Path("outputs") / "measured" / own
    try:
        if len(set(names)) < len(names):
            raise ValueError("the videos must have different names, which stand for the cameras")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out={out} is a file, not a folder")
        predictors = choose_predictors(given, names)
        flow = any(predictor.source == "flow" for predictor in predictors.values())
        box = tuple(given.box) if given.box else None
        settings = FrontEnd(grid=given.grid, flow=flow, box=box)
        maps = read_maps(given.videos, given.detector, settings)
        measurements = measure_signals(predictors, maps, given, str(first))
        write_all(measurements, out)
        if given.show_face:
            save_face(first, given.detector, settings, out / "face.png")
    except (UserError, ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for measurement in measurements:
        print("\n".join(summary_lines(measurement)))
        warn_of_flicker(measurement, maps)
    print(f"{out}  ({time.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    main()
