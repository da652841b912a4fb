"""Synthetic sessions as maps, by the dichromatic reflection model (Wang et al. 2017).

Colour k of patch x: C_k = I (s L_k + D_k (1 - a u_k g (p(t - d) + b r))) + noise, with light I, specular reflection s,
skin colour D, pulse p of amplitude a, breathing r. More blood means darker skin, so the pulse has a minus sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.signal import lfilter

from datasets.faces.physiology import Physiology
from datasets.faces.scene import (
    CODEC_CHANNELS,
    GOPS,
    PROFILES,
    Scene,
    SceneSettings,
    View,
    draw_scene,
    draw_view,
    row_weights,
)
from datasets.faces.session import CameraMap, Session, Truth

VERSION = 1  # of the generator
SPECULAR = 0.08  # mean specular reflection, as a share of the gain
SWAY = 1.0  # pixels of a crop of 128 by which a unit of motion moves the face


def synthetic_session(
    key: Sequence[int],
    settings: SceneSettings,
    cameras: Sequence[str] = ("webcam", "phone"),
    physiology: Physiology | None = None,
    profiles: Mapping[str, str] | None = None,
) -> Session:
    """Return a synthetic session.

    Args:
        key: whole numbers that seed it, such as (seed, split, index).
        settings: what the session is like.
        cameras: names of the cameras.
        physiology: heart and breath; None: they are drawn.
        profiles: profile of each camera; those that it lacks have the profile of their name.
    """
    seeds = np.random.SeedSequence(list(key)).spawn(1 + len(cameras))
    scene = draw_scene(np.random.default_rng(seeds[0]), settings, physiology)
    maps = {}
    for name, seed in zip(cameras, seeds[1:], strict=True):
        rng = np.random.default_rng(seed)
        maps[name] = camera_map(rng, scene, draw_view(rng, scene, PROFILES[(profiles or {}).get(name, name)]))
    name = "s" + "_".join(f"{part:04d}" for part in key)
    meta = {"seed": list(key), "version": VERSION, "level": settings.level, "amplitude": scene.amplitude}
    return Session(name, name, maps, truth_of(scene), meta)


def truth_of(scene: Scene) -> Truth:
    """Return the contact waves and rates of a scene, at 120 Hz.

    Args:
        scene: what all cameras share.
    """
    p = scene.physiology
    part = slice(None, None, 2)
    waves = {"ppg": p.pulse + p.baseline * p.resp, "resp": p.resp}
    rates = {"hr": p.heart_rate, "rr": p.resp_rate}
    return Truth(
        p.t[part],
        {name: wave[part].astype(np.float32) for name, wave in waves.items()},
        {name: rate[part].astype(np.float32) for name, rate in rates.items()},
    )


def camera_map(rng: np.random.Generator, scene: Scene, view: View, noise: bool = True) -> CameraMap:
    """Return what a camera records of a scene, as a map.

    Args:
        rng: source of randomness, of this camera alone.
        scene: what all cameras share.
        view: how this camera sees it.
        noise: add the noise of sensor and codec.
    """
    profile, grid = view.profile, scene.settings.grid
    patches, channels = grid * grid, len(profile.skin)
    modulation = pulse_modulation(rng, scene, view, patches)
    shade = rng.uniform(0.6, 1.2, size=patches) * (0.5 if scene.settings.dark_skin else 1.0)
    diffuse = profile.gain * np.outer(shade, profile.skin)  # (M, C)
    shading = 1 + 0.004 * view.motion.T @ rng.normal(size=(2, patches))
    specular = SPECULAR + 0.004 * 0.6 * view.motion.T @ rng.normal(size=(2, patches))
    light = (view.light if view.light.shape[1] == 1 else np.repeat(view.light, grid, axis=1)) * shading  # (T, M)
    signal = 1 - scene.amplitude * modulation[:, :, None] * view.pulsatility
    rgb = light[:, :, None] * (profile.gain * specular[:, :, None] + diffuse * signal)
    if noise:
        rgb = rgb + sensor_noise(rng, rgb, profile.pixel_noise) + codec_noise(rng, rgb.shape, profile.codec_noise)
    assert rgb.shape[2] == channels
    return CameraMap(rgb.astype(np.float32), flow_map(rng, scene, view, noise).astype(np.float32), view.t)


def pulse_modulation(rng: np.random.Generator, scene: Scene, view: View, patches: int) -> np.ndarray:
    """Return g (p(t - d) + b r) of each patch, (T, M).

    Args:
        rng: source of randomness.
        scene: what all cameras share.
        view: how this camera sees it.
        patches: number of patches M.
    """
    p = scene.physiology
    strength = np.maximum(rng.normal(1, 0.35, size=patches), 0.1)
    strength[rng.uniform(size=patches) < 0.25] *= 0.1  # hair, beard, background
    delay = 0.010 * rng.normal(size=patches)
    pulse = scene.at(p.pulse, view.true_t[:, None] - delay)
    return strength * (pulse + p.baseline * scene.at(p.resp, view.true_t)[:, None])


def sensor_noise(rng: np.random.Generator, rgb: np.ndarray, pixel_noise: float) -> np.ndarray:
    """Return the noise of patch means: that of a pixel grows with the root of its level, means divide it.

    Args:
        rng: source of randomness.
        rgb: grey levels, (T, M, C).
        pixel_noise: standard deviation of a pixel at level 120.
    """
    pixels = rng.uniform(150, 900, size=(rgb.shape[1], 1))
    return pixel_noise * np.sqrt(np.maximum(rgb, 0) / 120 / pixels) * rng.normal(size=rgb.shape)


def codec_noise(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> np.ndarray:
    """Return the noise of a codec: correlated over time, with a bump at each key frame, (T, M, C).

    Args:
        rng: source of randomness.
        shape: (T, M, C).
        size: standard deviation in the noisiest channel, in grey levels.
    """
    count, patches, channels = shape
    rho = 0.6
    innovation = rng.normal(size=shape) * np.sqrt(1 - rho**2)
    noise = np.asarray(lfilter([1], [1, -rho], innovation, axis=0))
    since_key = np.arange(count) % int(rng.choice(GOPS))
    noise += 0.8 ** since_key[:, None, None] * rng.normal(size=(1, patches, channels))
    weights = np.array(CODEC_CHANNELS if channels == 3 else (1.0,) * channels)
    return size * weights * noise


def flow_map(rng: np.random.Generator, scene: Scene, view: View, noise: bool = True) -> np.ndarray:
    """Return the vertical displacement of each patch since the frame before, (T, M), in pixels of a crop of 128.

    Args:
        rng: source of randomness.
        scene: what all cameras share.
        view: how this camera sees it.
        noise: add 0.02 pixels of measurement noise.
    """
    grid = scene.settings.grid
    breath = scene.breath * scene.at(scene.physiology.resp, view.true_t)[:, None] * row_weights(grid)
    sway = SWAY * view.motion[1][:, None] * np.linspace(1, 0.5, grid)  # the head sways more than the shoulders
    rows = np.diff(breath + sway, axis=0, prepend=(breath + sway)[:1])
    flow = np.repeat(rows, grid, axis=1)
    return flow + 0.02 * rng.normal(size=flow.shape) if noise else flow
