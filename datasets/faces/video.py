"""Frames of videos and of folders of images, with their real time stamps."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.download import CorruptData
from datasets.faces.session import check_clock
from datasets.images.decode import read_image

log = logging.getLogger(__name__)
IMAGES = (".png", ".bmp", ".jpg", ".jpeg")
THERMAL_SHAPE = (512, 640)  # rows and columns of iBVP's raw thermal frames, 16 bit


class Frames:
    """Frames of one recording, in order.

    Args:
        path: video file or folder of images.
        times: time stamps of the frames in seconds, where the recording's own are not right; None: its own.
    """

    def __init__(self, path: Path, times: np.ndarray | None = None) -> None:
        self.path, self.times = path, None if times is None else np.asarray(times, float)
        if self.times is not None:
            check_clock(self.times, str(path))

    @abstractmethod
    def stamps(self) -> Iterator[tuple[float, Any]]:
        """Yield the time of each frame by the recording's own clock, and a handle for `image`."""

    @abstractmethod
    def image(self, handle: Any) -> np.ndarray:
        """Return the image of a frame, (H, W, 3) uint8 RGB.

        Args:
            handle: what `stamps` yielded last.
        """

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """Yield time and handle of each frame; frames without a time stamp of their own in `times` are left out.

        Raises:
            ValueError: the clock runs backwards.
        """
        last, number = -np.inf, -1
        for number, (t, handle) in enumerate(self.stamps()):
            if self.times is not None:
                if number >= len(self.times):
                    log.warning("%s has more frames than the %d time stamps; the rest is left out", self.path, number)
                    return
                t = float(self.times[number])
            if t <= last:
                raise ValueError(
                    f"{self.path}: the clock runs backwards or stands still at frame {number}: {last:.4f} s, {t:.4f} s"
                )
            last = t
            yield t, handle
        if self.times is not None and number + 1 < len(self.times):
            short = number + 1 < 0.98 * len(self.times)
            level = logging.WARNING if short else logging.INFO
            log.log(level, "%s has %d frames, fewer than its %d time stamps", self.path, number + 1, len(self.times))


class VideoFrames(Frames):
    """Frames of a video file, decoded by libav: variable frame rate, rotation tags and 10 bit included.

    Args:
        path: video file.
        times: time stamps in seconds instead of the file's; None: the file's.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the file cannot be read or has no video.
    """

    def stamps(self) -> Iterator[tuple[float, Any]]:
        """Yield presentation time and frame.

        Raises:
            ValueError: the file cannot be read, has no video stream, or no frame.
        """
        try:
            import av
        except ImportError as error:
            raise ImportError("reading videos needs PyAV: pip install '.[faces]'") from error
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path} cannot be read as a video: {error}") from error
        with container:
            if not container.streams.video:
                sound = ", only sound" if container.streams.audio else ""
                raise ValueError(f"{self.path} has no video stream{sound}")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # videos are read in parallel by processes
            expected, count, t = stream.frames, 0, 0.0
            rate = float(stream.average_rate or 30)
            try:
                for frame in container.decode(stream):
                    t = count / rate if frame.time is None else float(frame.time)
                    count += 1
                    yield t, frame
            except av.error.FFmpegError as error:
                if not count:
                    raise ValueError(f"{self.path} cannot be decoded: {error}") from error
                log.warning("%s is damaged after %.2f s (%s); what comes before is used", self.path, t, error)
            if not count:
                raise ValueError(f"{self.path} has no frames")
            if expected and count < 0.98 * expected:
                log.warning("%s is cut short: %d of %d frames, until %.2f s", self.path, count, expected, t)

    def image(self, handle: Any) -> np.ndarray:
        """Return an upright frame, (H, W, 3) uint8 RGB."""
        image = handle.to_ndarray(format="rgb24")
        turns = round(getattr(handle, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def by_number(path: Path) -> list[str | int]:
    """Return a key that sorts `2.png` before `10.png`.

    Args:
        path: file.
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


class ImageFrames(Frames):
    """Frames of a folder of images, or of raw thermal frames (iBVP), in the order of the numbers in their names.

    Args:
        path: folder.
        times: time stamps in seconds; None: `fps`.
        fps: frames a second.

    Raises:
        ValueError: the folder has no images.
    """

    def __init__(self, path: Path, times: np.ndarray | None = None, fps: float = 30.0) -> None:
        super().__init__(path, times)
        self.fps = fps
        inside = path.iterdir() if path.is_dir() else ()
        images = (p for p in inside if p.suffix.lower() in (*IMAGES, ".raw") and not p.name.startswith("."))
        self.files = sorted(images, key=by_number)
        if not self.files:
            raise ValueError(f"{path} has no images ({', '.join(IMAGES)})")

    def stamps(self) -> Iterator[tuple[float, Any]]:
        """Yield time and file."""
        for number, file in enumerate(self.files):
            yield number / self.fps, file

    def image(self, handle: Any) -> np.ndarray:
        """Return an image, (H, W, 3) uint8 RGB; thermal frames are spread over 20 to 40 degrees.

        Raises:
            CorruptData: the file is no image, or no thermal frame of 512 x 640 values.
        """
        if handle.suffix == ".raw":
            values = np.fromfile(handle, np.uint16)
            if values.size != np.prod(THERMAL_SHAPE):
                raise CorruptData(f"{handle} has {values.size} values of 16 bits; a thermal frame has 512 x 640")
            celsius = values.reshape(THERMAL_SHAPE) * 0.04 - 273.15
            grey = np.clip((celsius - 20) / 20 * 255, 0, 255).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        return read_image(handle, channels=3, size=None).permute(1, 2, 0).contiguous().numpy()


def open_frames(path: Path, times: np.ndarray | None = None, fps: float = 30.0) -> Frames:
    """Return the frames of a video file or of a folder of images.

    Args:
        path: file or folder.
        times: time stamps in seconds, where the recording's own are not right.
        fps: frames a second of images without time stamps.

    Raises:
        ValueError: there is no such file.
    """
    if path.is_dir():
        return ImageFrames(path, times, fps)
    if not path.is_file():
        raise ValueError(f"there is no video {path}")
    return VideoFrames(path, times)
