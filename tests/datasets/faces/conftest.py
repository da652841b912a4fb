"""Small videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("cv2")


@pytest.fixture
def write_frames() -> Callable:
    """write_frames(path, images, times=None) writes a video; images (T, H, W, 3) uint8; avi files have 30 frames/s."""
    from datasets.faces.rendering import write_video

    def write(path: Path, images: np.ndarray, times: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".avi":
            write_video(iter(images), np.arange(len(images)) / 30 if times is None else times, path, crf=0)
            return path
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mjpeg", rate=30)
            stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuvj420p"
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def moving() -> Callable:
    """moving(count, seed, shift) -> frames of a smooth picture that moves down by `shift` pixels a frame."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    def make(count: int = 30, seed: int = 0, shift: np.ndarray | float = 0.0, size=(96, 128)) -> np.ndarray:
        rng = np.random.default_rng(seed)
        noise = gaussian_filter(rng.normal(size=(size[0] + 40, size[1], 3)), (3, 3, 0))
        picture = 128 + 30 * noise / noise.std()
        down = np.cumsum(np.broadcast_to(shift, (count,)))
        rows, columns = np.mgrid[: size[0], : size[1]].astype(float)
        frames = [
            np.stack([map_coordinates(picture[..., c], [rows + 20 - d, columns], order=1) for c in range(3)], axis=-1)
            for d in down
        ]
        return np.clip(np.rint(frames), 0, 255).astype(np.uint8)

    return make
