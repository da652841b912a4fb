"""From frames to maps: face boxes, colours of patches, optical flow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from datasets.faces.detect import import_cv2, overlap_of
from datasets.faces.session import CameraMap, check_map, colour_moments
from datasets.faces.video import Frames

log = logging.getLogger(__name__)

FLOW_SIDE = 128  # pixels of the crop whose flow is computed
FLOW_BOX = 1.5  # side of its box, relative to the larger side of the face
FARNEBACK = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0}
GREY = 3.0  # levels by which the colours of a grey video differ at most, as codecs round
GAP = 0.5  # seconds without a frame that are said
FACE_GAP = 2.0  # seconds without a detected face that are said
MOVED = 0.7  # intersection over union below which a face counts as moved
Detector = Callable[[np.ndarray], np.ndarray]
Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass
class FrontEnd:
    """Settings of the measurement on frames.

    Args:
        grid: patches along each side of the box.
        detect_every: seconds between two detections.
        window: seconds over which the box of the colours is fixed; it then moves only if the face did.
        flow: compute optical flow, which takes most of the time; without it flow is zero.
        box: fixed box x, y, width, height of the face in pixels; None: it is detected.
    """

    grid: int = 8
    detect_every: float = 0.5
    window: float = 10.0
    flow: bool = True
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"a map needs a grid of at least 1 patch along each side, got {self.grid}")


@dataclass
class Faces:
    """Boxes of the largest face over time.

    Args:
        t: times of the detections, (N,).
        boxes: x, y, width, height, (N, 4).
        first: first time stamp of the recording.
        last: last one.
        shape: height and width of the frames.
        several: times at which there was more than one face.
    """

    t: np.ndarray
    boxes: np.ndarray
    first: float
    last: float
    shape: tuple[int, int]
    several: list[float] = field(default_factory=list)


def find_faces(frames: Frames, detector: Detector | None, settings: FrontEnd) -> Faces:
    """Detect the largest face now and then. Other frames are decoded, but not converted to images.

    Args:
        frames: recording.
        detector: function from an image to boxes, largest first; not used with a fixed box.
        settings: what is measured.

    Raises:
        ValueError: no face is found for a whole window; the message names the video and the time.
    """
    times, boxes, several = [], [], []
    first = last = float("nan")
    due, seen, shape, lost = -np.inf, None, (0, 0), []
    for t, handle in frames:
        first, last = (t, t) if np.isnan(first) else (first, t)
        seen = t if seen is None else seen
        if t < due:
            continue
        due = t + settings.detect_every
        image = frames.image(handle)
        shape = image.shape[:2]
        if settings.box is not None:
            times.append(t)
            boxes.append(np.array(settings.box, float))
            due = np.inf
            continue
        assert detector is not None
        found = detector(image)
        if len(found):
            times.append(t)
            boxes.append(found[0])
            lost += [(seen, t)] if t - seen >= FACE_GAP else []
            seen = t
            several += [t] if len(found) > 1 else []
        elif t - seen >= settings.window:
            raise ValueError(f"{frames.path}: no face found from {seen:.1f} s to {t:.1f} s")
    if not boxes:
        raise ValueError(f"{frames.path}: no face found from {first:.1f} s to {last:.1f} s")
    if settings.box is None and seen is not None and last - seen >= FACE_GAP:
        lost.append((seen, last))
    say_gaps(frames, "no face found", lost)
    if several:
        log.warning(
            "%s: %d detections with several faces, first at %.1f s; the largest is used",
            frames.path,
            len(several),
            several[0],
        )
    return Faces(np.array(times), np.array(boxes), first, last, shape, several)


def clamp(box: np.ndarray, shape: tuple[int, int]) -> Box:
    """Return a box in whole pixels inside an image; it may become smaller.

    Args:
        box: x, y, width, height.
        shape: height and width of the image.

    Raises:
        ValueError: nothing of the box is inside.
    """
    x0, y0 = max(0, round(box[0])), max(0, round(box[1]))
    x1, y1 = min(shape[1], round(box[0] + box[2])), min(shape[0], round(box[1] + box[3]))
    if x1 - x0 < 8 or y1 - y0 < 8:
        raise ValueError(f"the box {[round(float(v)) for v in box]} is not inside the frame of {shape[1]} x {shape[0]}")
    return x0, y0, x1 - x0, y1 - y0


def flow_box(faces: Faces) -> Box:
    """Return the box for flow: a square around the median face, fixed for the whole recording.

    Re-centring it would subtract the motion that breathing makes.

    Args:
        faces: detections.
    """
    x, y, width, height = np.median(faces.boxes, axis=0)
    side = FLOW_BOX * max(width, height)
    return clamp(np.array([x + width / 2 - side / 2, y + height / 2 - side / 2, side, side]), faces.shape)


def colour_boxes(faces: Faces, settings: FrontEnd) -> list[tuple[float, Box]]:
    """Return the boxes for colours with the time from which each holds: medians of windows.

    A box stays as long as the median face of the window overlaps it by 0.7, so that the wave has no needless steps.

    Args:
        faces: detections.
        settings: what is measured.
    """
    boxes: list[tuple[float, Box]] = []
    held: np.ndarray | None = None
    for start in np.arange(faces.first, max(faces.last, faces.first + 1e-6), settings.window):
        inside = (faces.t >= start) & (faces.t < start + settings.window)
        if not inside.any():
            continue
        median = np.median(faces.boxes[inside], axis=0)
        if held is None or overlap_of(median, held) < MOVED:
            held = median
            boxes.append((start, clamp(median, faces.shape)))
    return boxes


def build_map(frames: Frames, detector: Detector | None, settings: FrontEnd | None = None) -> CameraMap:
    """Return the map of a recording. The recording is decoded twice: to find the face, then to measure it.

    Args:
        frames: recording.
        detector: function from an image to boxes, largest first; may be None with a fixed box.
        settings: what is measured.

    Raises:
        ValueError: no face is found, or the recording is no usable video.
    """
    settings = settings or FrontEnd()
    faces = find_faces(frames, detector, settings)
    boxes, square = colour_boxes(faces, settings), flow_box(faces)
    patches = PatchMeasure(settings.grid)
    flow = FlowMeasure(settings.grid, square) if settings.flow else None
    times, colours, moments, flows, backgrounds = [], [], [], [], []
    current = 0
    for t, handle in frames:
        image = frames.image(handle)
        while current + 1 < len(boxes) and t >= boxes[current + 1][0]:
            current += 1
        colour, moment = patches(image, boxes[current][1])
        times.append(t)
        colours.append(colour)
        moments.append(moment)
        backgrounds.append(beside(image, boxes[current][1]))
        flows.append(flow(image) if flow else np.zeros(settings.grid**2, np.float32))
    built = CameraMap(np.stack(colours), np.stack(flows), np.array(times), np.stack(moments), np.stack(backgrounds))
    check_map(built, str(frames.path))
    before = np.flatnonzero(np.diff(built.t) >= GAP)
    say_gaps(frames, "no frames", [(built.t[k], built.t[k + 1]) for k in before])
    return as_grey(built, frames)


def say_gaps(frames: Frames, what: str, gaps: Sequence[tuple[float, float]]) -> None:
    """Warn of gaps in a recording, across which values are interpolated or a box is held.

    Args:
        frames: recording.
        what: what is missing.
        gaps: beginning and end of each gap in seconds.
    """
    if gaps:
        spans = ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in gaps[:5]) + (", ..." if gaps[5:] else "")
        log.warning("%s: %s from %s", frames.path, what, spans)


def as_grey(built: CameraMap, frames: Frames) -> CameraMap:
    """Return the map with one channel if its colours are equal: a grey camera says nothing in three.

    Args:
        built: map with three channels.
        frames: recording, for the message.
    """
    if np.ptp(built.rgb, axis=2).max() > GREY:
        return built
    assert built.moment is not None
    assert built.background is not None
    log.info("%s is grey: its map has one channel", frames.path)
    moment = built.moment[:, [0, -1]][:, :, [0, -1]]
    return replace(built, rgb=built.rgb[..., :1], moment=moment, background=built.background[:, :1])


def beside(image: np.ndarray, box: Box) -> np.ndarray:
    """Return the mean colour of the columns left and right of a box that is twice as wide, (3,) float32.

    It sees the light, but not the pulse. Every fourth pixel counts. Without such columns it is zero.

    Args:
        image: RGB, (H, W, 3) uint8.
        box: face box x, y, width, height.
    """
    x, _, width, _ = box
    left, right = max(0, x - width // 2), min(image.shape[1], x + width + width // 2)
    pixels = np.concatenate([image[::4, :left:4].reshape(-1, 3), image[::4, right::4].reshape(-1, 3)])
    return pixels.mean(axis=0, dtype=np.float32) if len(pixels) else np.zeros(3, np.float32)


class PatchMeasure:
    """Mean colour of each patch of a box, and moments of its skin pixels.

    Args:
        grid: patches along each side.
    """

    side = 48  # pixels along each side at which skin is looked for

    def __init__(self, grid: int) -> None:
        self.cv2, self.grid = import_cv2(), grid
        self.box: Box | None = None
        self.skin = np.ones((self.side, self.side), bool)

    def __call__(self, image: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return mean colours (M, 3) and the moments of (colour, 1) over skin pixels (4, 4), float32.

        Args:
            image: RGB, (H, W, 3) uint8.
            box: x, y, width, height.
        """
        x, y, width, height = box
        crop = image[y : y + height, x : x + width].astype(np.float32)
        small = self.cv2.resize(crop, (self.side, self.side), interpolation=self.cv2.INTER_AREA)
        if box != self.box:
            self.box, self.skin = box, skin_mask(small)
        grid = self.cv2.resize(crop, (self.grid, self.grid), interpolation=self.cv2.INTER_AREA)
        pixels = small[self.skin].astype(np.float64)
        return grid.reshape(-1, 3), colour_moments(pixels).astype(np.float32)


def skin_mask(image: np.ndarray) -> np.ndarray:
    """Return which pixels have the chrominance of skin (Chai and Ngan 1999); all of them if few have, (H, W).

    Args:
        image: RGB in grey levels, (H, W, 3) float.
    """
    red, green, blue = np.moveaxis(image, -1, 0)
    blueness = 128 - 0.168736 * red - 0.331264 * green + 0.5 * blue
    redness = 128 + 0.5 * red - 0.418688 * green - 0.081312 * blue
    skin = (blueness >= 77) & (blueness <= 127) & (redness >= 133) & (redness <= 173)
    return skin if skin.mean() >= 0.1 else np.ones_like(skin)


class FlowMeasure:
    """Mean vertical flow of each patch of a fixed box since the frame before, in pixels of a crop of 128.

    Args:
        grid: patches along each side.
        box: x, y, width, height.
    """

    def __init__(self, grid: int, box: Box) -> None:
        self.cv2, self.grid, self.box = import_cv2(), grid, box
        self.before: np.ndarray | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the flow (M,) float32; zero for the first frame.

        Args:
            image: RGB, (H, W, 3) uint8.
        """
        x, y, width, height = self.box
        grey = self.cv2.cvtColor(image[y : y + height, x : x + width], self.cv2.COLOR_RGB2GRAY)
        small = self.cv2.resize(grey, (FLOW_SIDE, FLOW_SIDE), interpolation=self.cv2.INTER_AREA)
        before, self.before = self.before, small
        if before is None:
            return np.zeros(self.grid**2, np.float32)
        vertical = self.cv2.calcOpticalFlowFarneback(before, small, None, **FARNEBACK)[..., 1]
        means = self.cv2.resize(vertical, (self.grid, self.grid), interpolation=self.cv2.INTER_AREA)
        return means.reshape(-1)
