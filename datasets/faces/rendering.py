"""Synthetic sessions as videos: a textured face and shoulders that move, blush and breathe, for the real front end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from datasets.faces.scene import PROFILES, ROW_WEIGHTS, Scene, SceneSettings, View, draw_scene, draw_view
from datasets.faces.session import Truth
from datasets.faces.synthetic import SPECULAR, SWAY, truth_of


@dataclass
class Template:
    """Still picture of a face.

    Args:
        shade: brightness of each pixel, (H, W).
        skin: how much of the pulse each pixel shows, (H, W), in 0 to 1.
        box: face box x, y, width, height.
    """

    shade: np.ndarray
    skin: np.ndarray
    box: tuple[int, int, int, int]


def face_template(rng: np.random.Generator, height: int, width: int) -> Template:
    """Draw a face: an ellipse above shoulders, with a smooth texture that optical flow can follow.

    Args:
        rng: source of randomness.
        height: rows of the image.
        width: columns of the image.
    """
    y, x = np.mgrid[:height, :width]
    tall, wide = 0.26 * height, 0.18 * width
    centre_y, centre_x = 0.42 * height, 0.5 * width
    face = ((y - centre_y) / tall) ** 2 + ((x - centre_x) / wide) ** 2 < 1
    shoulders = (y > 0.72 * height) & (np.abs(x - centre_x) < 0.4 * width)
    texture = sum(_texture(rng, height, width, scale) for scale in (2.0, 5.0, 12.0))
    shade = np.where(face, 0.9, np.where(shoulders, 0.5, 0.35)) * (1 + 0.12 * texture)
    box = (round(centre_x - wide), round(centre_y - tall), round(2 * wide), round(2 * tall))
    return Template(shade, gaussian_filter(face.astype(float), 1.0), box)


def _texture(rng: np.random.Generator, height: int, width: int, scale: float) -> np.ndarray:
    noise = gaussian_filter(rng.normal(size=(height, width)), scale)
    return noise / noise.std()


def render_frames(
    rng: np.random.Generator, scene: Scene, view: View, template: Template, noise: bool = True
) -> Iterator[np.ndarray]:
    """Yield the frames that a camera takes of a scene, (H, W, 3) uint8.

    Args:
        rng: source of randomness, of this camera alone.
        scene: what all cameras share.
        view: how this camera sees it.
        template: still picture that is moved.
        noise: add the noise of the sensor.
    """
    physiology, profile = scene.physiology, view.profile
    height, width = template.shade.shape
    scale = height / 128 * 0.6  # the flow crop of 128 pixels is about 0.6 of the frame
    rows, columns = np.mgrid[:height, :width].astype(float)
    weight = np.interp(rows[:, 0], [template.box[1], height], ROW_WEIGHTS)[:, None]
    breath = scene.breath * scene.at(physiology.resp, view.true_t)
    pulse = scene.at(physiology.pulse, view.true_t) + physiology.baseline * scene.at(physiology.resp, view.true_t)
    colour, light = np.array(profile.skin) * profile.gain, view.light.mean(axis=1)
    sway_rows = np.linspace(1, 0.5, height)[:, None]
    for k in range(len(view.t)):
        down = scale * (breath[k] * weight + SWAY * view.motion[1, k] * sway_rows)
        right = scale * SWAY * view.motion[0, k]
        place = np.stack([rows - down, columns - right])
        shade = map_coordinates(template.shade, place, order=1, mode="nearest")
        skin = map_coordinates(template.skin, place, order=1, mode="nearest")
        blush = 1 - scene.amplitude * pulse[k] * skin[..., None] * view.pulsatility
        image = light[k] * (shade[..., None] * colour * blush + SPECULAR * profile.gain)
        if noise:
            image = image + profile.pixel_noise * np.sqrt(np.maximum(image, 0) / 120) * rng.normal(size=image.shape)
        yield np.clip(np.rint(image), 0, 255).astype(np.uint8)


def write_video(
    frames: Iterator[np.ndarray], times: np.ndarray, path: Path, crf: int = 18, codec: str = "libx264"
) -> None:
    """Encode frames with their time stamps (variable frame rate).

    Args:
        frames: frames (H, W, 3) uint8, with even height and width.
        times: time stamps in seconds, rising; the first one becomes 0.
        path: file to write.
        crf: quality of the encoder, lower is better.
        codec: name of libav's encoder.
    """
    from fractions import Fraction

    try:
        import av
    except ImportError as error:
        raise ImportError("writing videos needs PyAV: pip install '.[faces]'") from error
    base = Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=30, options={"crf": str(crf), "preset": "veryfast"})
        stream.pix_fmt, stream.time_base = "yuv420p", base
        stream.codec_context.time_base = base
        for number, (t, image) in enumerate(zip(times, frames, strict=True)):
            if not number:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round((t - times[0]) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def render_session(
    key: Sequence[int],
    settings: SceneSettings,
    folder: Path,
    cameras: Sequence[str] = ("webcam", "phone"),
    size: tuple[int, int] = (120, 160),
    crf: int = 18,
) -> dict[str, tuple[int, int, int, int]]:
    """Write a synthetic session as videos in the layout of one's own folder, with `truth.csv`.

    Time 0 of each video is its first frame, as with real cameras, so that the clocks differ by their offsets.

    Args:
        key: whole numbers that seed it.
        settings: what the session is like.
        folder: folder of the session.
        cameras: names of profiles.
        size: height and width of the frames, even numbers.
        crf: quality of the encoder.

    Returns:
        Face box x, y, width, height by camera.
    """
    seeds = np.random.SeedSequence(list(key)).spawn(1 + len(cameras))
    scene = draw_scene(np.random.default_rng(seeds[0]), settings)
    folder.mkdir(parents=True, exist_ok=True)
    boxes, zero = {}, 0.0
    for name, seed in zip(cameras, seeds[1:], strict=True):
        rng = np.random.default_rng(seed)
        view = draw_view(rng, scene, PROFILES[name])
        template = face_template(rng, *size)
        write_video(render_frames(rng, scene, view, template), view.t, folder / f"cam_{name}.mp4", crf)
        boxes[name] = template.box
        if name == min(cameras):  # the first one by name, whose clock counts in this layout
            zero = float(view.true_t[0])
    write_truth(truth_of(scene), zero, folder / "truth.csv")
    return boxes


def write_truth(truth: Truth, zero: float, path: Path) -> None:
    """Write contact measurements as `truth.csv`.

    Args:
        truth: measurements.
        zero: time on their clock at which the first camera's first frame was taken.
        path: file to write.
    """
    columns = {"t": truth.t - zero, **truth.waves, **truth.rates}
    values = np.stack(list(columns.values()), axis=1)
    np.savetxt(path, values, fmt="%.5f", delimiter=",", header=",".join(columns), comments="")
