"""Measure the front end, training and inference of methods on faces.

    python -m scripts.bench_faces frontend [--video VIDEO]      # frames/s against the plain loop
    python -m scripts.bench_faces training [--width 64]         # windows/s
    python -m scripts.bench_faces inference                     # seconds for a video of a minute, maps given

Ours and the plain loop take turns on one thread. The plain loop decodes, detects the face in every frame and computes
optical flow of the whole frame. Without a video one is drawn, in which the detector finds no face: both look for one,
and go on with the box that was drawn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datasets.faces.detect import import_cv2, make_detector
from datasets.faces.frontend import FARNEBACK, FrontEnd, build_map
from datasets.faces.rendering import render_session
from datasets.faces.scene import SceneSettings
from datasets.faces.synthetic import synthetic_session
from datasets.faces.synthetic_data import SyntheticFaces
from datasets.faces.video import open_frames
from methods.calibrationphys.module import CalibrationPhys
from methods.calibrationphys.networks import CameraPhysNet2D
from methods.calibrationphys.predictor import formula_predictor, measure, module_predictor
from methods.calibrationphys.supervised import Supervised
from scripts.arguments import positive, positive_number

SIZE = (480, 640)  # of the drawn video


def plain_loop(path: Path, detector: Callable[[np.ndarray], np.ndarray], grid: int = 8) -> int:
    """Return the number of frames of a video after detection in each of them, and flow of each whole frame.

    Args:
        path: video.
        detector: face detector.
        grid: patches along each side.
    """
    cv2 = import_cv2()
    frames, before, count = open_frames(path), None, 0
    for _, handle in frames:
        image = frames.image(handle)
        boxes = detector(image)
        x, y, width, height = boxes[0].round().astype(int) if len(boxes) else (0, 0, image.shape[1], image.shape[0])
        x, y = max(x, 0), max(y, 0)
        crop = image[y : y + height, x : x + width].astype(np.float32)
        cv2.resize(crop, (grid, grid), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if before is not None:
            cv2.calcOpticalFlowFarneback(before, grey, None, **FARNEBACK)
        before, count = grey, count + 1
    return count


def seconds_of(function: Callable[[], object]) -> tuple[float, float]:
    """Return seconds by the clock and by the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def bench_frontend(given: argparse.Namespace) -> None:
    """Measure both ways from a video to a map, in turns."""
    detector = make_detector("ultralight")
    with tempfile.TemporaryDirectory() as folder:
        path: Path = given.video
        find: Callable[[np.ndarray], np.ndarray] = detector
        if path is None:
            settings = SceneSettings(seconds=given.seconds)
            boxes = render_session((0, 0), settings, Path(folder), ["webcam"], size=SIZE)
            path = Path(folder) / "cam_webcam.mp4"
            drawn = np.array([boxes["webcam"]], float)

            def find(image: np.ndarray) -> np.ndarray:
                detector(image)
                return drawn

        count = len(list(open_frames(path)))
        ways: dict[str, Callable[[], object]] = {
            "ours, colours and flow": lambda: build_map(open_frames(path), find, FrontEnd()),
            "ours, colours alone": lambda: build_map(open_frames(path), find, FrontEnd(flow=False)),
            "plain loop": lambda: plain_loop(path, find),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(given.repeats):
            for name, way in ways.items():
                found[name].append(seconds_of(way))
        plain = statistics.median(p for _, p in found["plain loop"])
        for name, pairs in found.items():
            clock, processor = (statistics.median(pair[i] for pair in pairs) for i in range(2))
            rate = f"{count / clock:.1f} frames/s by the clock, {count / processor:.1f} by the processor"
            print(f"{name}: {rate}, {plain / processor:.1f} times the plain loop")


def bench_training(given: argparse.Namespace) -> None:
    """Measure steps of CalibrationPhys with two cameras."""
    data = SyntheticFaces(sessions={"train": 16, "val": 2, "test": 2}, batch_size=given.batch)
    data.setup()
    module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=given.width))
    module.prepare(data)
    optimizer = module.configure_optimizers()
    batch = next(iter(data.train_dataloader()))

    def step() -> None:
        optimizer.zero_grad()
        loss = module.loss(*module.augmented(batch))
        assert loss is not None
        loss.backward()
        optimizer.step()

    step()
    pairs = [seconds_of(step) for _ in range(given.repeats)]
    clock, processor = (statistics.median(pair[i] for pair in pairs) for i in range(2))
    windows = 2 * len(batch)
    print(
        f"maps of {data.dims['patches']} x {data.clip_length}, width {given.width}, {windows} windows a step: "
        f"{windows / clock:.2f} windows/s by the clock, {windows / processor:.2f} by the processor"
    )


def bench_inference(given: argparse.Namespace) -> None:
    """Measure the time from the map of a minute of video to rates."""
    session = synthetic_session((0, 0, 0), SceneSettings(seconds=60.0))
    maps = {"webcam": session.cameras["webcam"]}
    module = Supervised(CameraPhysNet2D({"webcam": 3}, 64, width=given.width)).eval()
    ways = {
        "pos": partial(measure, maps, formula_predictor("pos"), 10.0),
        "flowmean": partial(measure, maps, formula_predictor("flowmean"), 30.0),
        f"network of width {given.width}": partial(measure, maps, module_predictor(module, "webcam"), 10.0),
    }
    for name, way in ways.items():
        clock, processor = min(seconds_of(way) for _ in range(given.repeats))
        print(f"{name}: {clock:.2f} s by the clock, {processor:.2f} s by the processor, for 60 s of maps")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("frontend", bench_frontend), ("training", bench_training), ("inference", bench_inference)):
        sub = commands.add_parser(name)
        sub.set_defaults(run=run)
        sub.add_argument("--repeats", type=positive, default=3)
        if name == "frontend":
            sub.add_argument("--video", type=Path)
            sub.add_argument("--seconds", type=positive_number, default=8.0, help="of the video drawn without --video")
        else:
            sub.add_argument("--width", type=positive, default=64)
        if name == "training":
            sub.add_argument("--batch", type=positive, default=4)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.run(given)


if __name__ == "__main__":
    main()
