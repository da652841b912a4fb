"""Synthetic scene: cameras, light, motion. Shared by the generator of maps and the one of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np

from datasets.checks import check_choice, check_fraction, check_not_negative, check_positive
from datasets.faces.physiology import LATENT_FS, Physiology, coloured_noise, draw_physiology

ROW_WEIGHTS = (0.6, 1.6)  # breathing moves the forehead less than the shoulders
GOPS = (12, 15, 30, 60, 250)  # frames between two key frames


@dataclass(frozen=True)
class CameraProfile:
    """Constants of a camera.

    Args:
        pulsatility: pulse in each colour channel, relative to the largest.
        skin: colour of skin, as a share of the gain.
        gain: grey level of white.
        pixel_noise: standard deviation of a pixel at level 120, in grey levels.
        codec_noise: standard deviation of a patch by the codec in its noisiest channel, in grey levels.
        exposure: strength of the automatic exposure.
        fps: frames a second.
        offset: range of the start in seconds, either side of 0.
    """

    pulsatility: tuple[float, ...]
    skin: tuple[float, ...]
    gain: float
    pixel_noise: float
    codec_noise: float
    exposure: float
    fps: float = 30.0
    offset: float = 0.5


PROFILES = {
    "webcam": CameraProfile((0.33, 0.77, 0.53), (0.7682, 0.5121, 0.3841), 170, 1.2, 0.25, 0.5),
    "phone": CameraProfile((0.28, 0.80, 0.52), (0.74, 0.54, 0.42), 190, 0.9, 0.15, 0.3, fps=29.97),
    "nir": CameraProfile((0.25,), (0.6,), 180, 1.0, 0.2, 0.2),
}
PROFILES |= {  # a second pair of cameras, to test the transfer between pairs
    "webcam_b": CameraProfile((0.36, 0.74, 0.58), (0.72, 0.50, 0.42), 150, 1.4, 0.3, 0.8, fps=25.0),
    "phone_b": CameraProfile((0.30, 0.82, 0.47), (0.80, 0.55, 0.38), 200, 0.8, 0.2, 0.2, fps=30.0),
}
CODEC_CHANNELS = (0.6, 0.4, 1.0)  # colour is stored at half resolution: red and blue are noisier than green


@dataclass(frozen=True)
class SceneSettings:
    """Parameters of a synthetic session.

    Args:
        seconds: duration.
        grid: patches along each side of the face box.
        level: strength of head motion and ambient light; 0: none, 1: usual, 3: hard.
        amplitude: standard deviation of the pulse in green, relative to its mean; None: log-uniform in 0.08 % to 0.4 %.
        dark_skin: divide the amplitude by 2.5 and the reflected light by 2.
        flicker: standard deviation of a flickering light in 0.8 to 2.5 Hz, relative; the shortcut that misleads
            calibration between cameras.
        flicker_shared: all cameras see the same flicker.
        mains: frequency of the mains in Hz, whose light pulses at twice that frequency; None: none.
        mains_depth: depth of that light, relative.
        fps: frames a second of each camera; None: that of its profile.
        dropped: share of dropped frames.
        jitter: standard deviation of the time between frames, in seconds.
        drift: largest deviation of a camera's clock, relative.
        heart_range: range of mean heart rates, per minute.
        resp_range: range of mean respiratory rates, per minute.
    """

    seconds: float = 31.0
    grid: int = 8
    level: float = 1.0
    amplitude: float | None = None
    dark_skin: bool = False
    flicker: float = 0.0
    flicker_shared: bool = True
    mains: Literal[50, 60] | None = None
    mains_depth: float = 0.005
    fps: float | None = None
    dropped: float = 0.002
    jitter: float = 0.001
    drift: float = 1e-4
    heart_range: tuple[float, float] = (50.0, 110.0)
    resp_range: tuple[float, float] = (9.0, 24.0)

    def check(self) -> None:
        """Raise ValueError if a setting is out of range."""
        check_positive("dataset.scene", seconds=self.seconds, grid=self.grid, fps=self.fps)
        check_not_negative(
            "dataset.scene",
            level=self.level,
            amplitude=self.amplitude,
            flicker=self.flicker,
            mains_depth=self.mains_depth,
            jitter=self.jitter,
            drift=self.drift,
        )
        check_fraction("dataset.scene", dropped=self.dropped)
        check_choice("dataset.scene.mains", self.mains, (None, 50, 60))
        if self.fps is not None and self.fps < 15:
            raise ValueError(f"dataset.scene.fps must be at least 15, got {self.fps}")
        for name, ends in {"heart_range": self.heart_range, "resp_range": self.resp_range}.items():
            numbers = isinstance(ends, tuple) and len(ends) == 2 and all(isinstance(end, Real) for end in ends)
            if not (numbers and 0 < ends[0] <= ends[1]):
                raise ValueError(f"dataset.scene.{name} must be two rising positive numbers, got {ends}")
        if self.resp_range[1] >= self.heart_range[0] / 2:
            raise ValueError("dataset.scene.resp_range must stay below half of dataset.scene.heart_range")


@dataclass
class Scene:
    """One session before any camera looks at it: everything that the cameras share.

    Args:
        settings: what the session is like.
        physiology: heart and breath.
        motion: head position, horizontal and vertical, unit variance at level 1, (2, N).
        ambient: relative deviation of the light, (N,).
        flicker: relative deviation by the shared flicker, (N,).
        amplitude: standard deviation of the pulse in green, relative to its mean.
        breath: size of the breathing displacement, pixels of a crop of 128.
    """

    settings: SceneSettings
    physiology: Physiology
    motion: np.ndarray
    ambient: np.ndarray
    flicker: np.ndarray
    amplitude: float
    breath: float

    def at(self, values: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return a latent signal at given times, of their shape.

        Args:
            values: signal on the latent clock, (N,).
            t: seconds, any shape.
        """
        return np.interp(t, self.physiology.t, values)


def draw_scene(rng: np.random.Generator, settings: SceneSettings, physiology: Physiology | None = None) -> Scene:
    """Draw a session.

    Args:
        rng: source of randomness.
        settings: what the session is like.
        physiology: heart and breath; None: they are drawn.
    """
    drawn = draw_physiology(rng, settings.seconds, heart_range=settings.heart_range, resp_range=settings.resp_range)
    physiology = physiology or drawn
    count, level = len(physiology.t), settings.level
    sway = [
        coloured_noise(rng, count, LATENT_FS, (0.03, 1.5), beta=2.0) + _events(rng, physiology.t, level) for _ in "xy"
    ]
    ambient = 0.004 * level * coloured_noise(rng, count, LATENT_FS, (0.02, 3.0), beta=1.2)
    amplitude = float(np.exp(rng.uniform(np.log(0.0008), np.log(0.004))))
    if settings.amplitude is not None:
        amplitude = settings.amplitude
    if settings.dark_skin:
        amplitude /= 2.5
    breath = 0.5 * float(rng.lognormal(0, 0.4))
    flicker = _flicker(rng, physiology.t, settings.flicker)
    return Scene(settings, physiology, level * np.stack(sway), ambient, flicker, amplitude, breath)


def _events(rng: np.random.Generator, t: np.ndarray, level: float) -> np.ndarray:
    """Return sudden movements: Poisson events of 0.3 to 1 s, three times as large as the sway."""
    signal = np.zeros(len(t))
    for _ in range(rng.poisson(level * (t[-1] - t[0]) / 12)):
        centre, width = rng.uniform(t[0], t[-1]), rng.uniform(0.3, 1.0)
        signal += 3 * rng.choice((-1, 1)) * np.exp(-(((t - centre) / (width / 2)) ** 2))
    return signal


def _flicker(rng: np.random.Generator, t: np.ndarray, depth: float) -> np.ndarray:
    """Return a sine of a random frequency between 0.8 and 2.5 Hz with standard deviation `depth`."""
    frequency, phase = rng.uniform(0.8, 2.5), rng.uniform(0, 2 * np.pi)
    return depth * np.sqrt(2) * np.sin(2 * np.pi * frequency * t + phase)


@dataclass
class View:
    """One camera's view of a scene.

    Args:
        profile: constants of the camera.
        true_t: when each frame was taken, (T,).
        t: what the camera's clock said, (T,).
        light: relative light of each frame, (T,), or of each frame and row of patches, (T, G), with a rolling shutter.
        motion: horizontal and vertical position of the head as this camera sees it, (2, T).
        pulsatility: pulse in each channel in this session, (C,).
    """

    profile: CameraProfile
    true_t: np.ndarray
    t: np.ndarray
    light: np.ndarray
    motion: np.ndarray
    pulsatility: np.ndarray


def draw_view(rng: np.random.Generator, scene: Scene, profile: CameraProfile) -> View:
    """Draw how a camera sees a scene.

    Args:
        rng: source of randomness, of this camera alone.
        scene: what all cameras share.
        profile: constants of the camera.
    """
    settings = scene.settings
    if settings.fps is not None:
        profile = replace(profile, fps=settings.fps)
    true_t, t = _times(rng, settings, profile)
    angle, scale = rng.uniform(-0.6, 0.6), rng.uniform(0.8, 1.2)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    motion = rotation @ np.stack([scene.at(axis, true_t) for axis in scene.motion])
    flicker = scene.flicker
    own = _flicker(rng, scene.physiology.t, settings.flicker)
    if not settings.flicker_shared:
        flicker = own
    slow = rng.uniform(0.08, 0.5)
    exposure = 0.003 * profile.exposure * np.sin(2 * np.pi * slow * true_t + rng.uniform(0, 2 * np.pi))
    light = 1 + scene.at(scene.ambient, true_t) + scene.at(flicker, true_t) + exposure
    light = light[:, None] + _mains(rng, settings, true_t, profile.fps)
    pulsatility = np.array(profile.pulsatility)
    if len(pulsatility) > 1:
        pulsatility = pulsatility / pulsatility.max() * (1 + 0.05 * rng.normal(size=len(pulsatility)))
    return View(profile, true_t, t, light, motion, pulsatility)


def _times(rng: np.random.Generator, settings: SceneSettings, profile: CameraProfile) -> tuple[np.ndarray, np.ndarray]:
    count = int(settings.seconds * profile.fps)
    offset = rng.uniform(-profile.offset, profile.offset)
    jitter = np.clip(settings.jitter * rng.normal(size=count), -0.4 / profile.fps, 0.4 / profile.fps)
    true_t = offset + np.arange(count) / profile.fps + jitter
    true_t = true_t[rng.uniform(size=count) >= settings.dropped]
    return true_t, true_t * (1 + rng.uniform(-settings.drift, settings.drift))


def _mains(rng: np.random.Generator, settings: SceneSettings, t: np.ndarray, fps: float) -> np.ndarray:
    """Return the light of the mains in each frame and row of patches, sampled as a rolling shutter does, (T, G)."""
    if settings.mains is None:
        return np.zeros((1, 1))
    rows = t[:, None] + np.arange(settings.grid)[None] / settings.grid * (0.5 / fps)
    angle = 2 * np.pi * 2 * settings.mains * rows + rng.uniform(0, 2 * np.pi)
    return settings.mains_depth * np.cos(angle)


def row_weights(grid: int) -> np.ndarray:
    """Return how much breathing moves each row of patches, (G,).

    Args:
        grid: patches along each side.
    """
    return np.linspace(*ROW_WEIGHTS, grid)


def describe(settings: SceneSettings) -> dict[str, Any]:
    """Return the settings as plain Python, for meta.yaml."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(settings).items()}
