"""Sessions on a common clock, and windows of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from scipy.signal import firwin, resample_poly
from torch import Tensor

from datasets.faces.session import CameraMap, Session, Truth

log = logging.getLogger(__name__)

WORK_FS = 30.0  # Hz; maps are interpolated to it by their time stamps, then brought to the rate that is asked for
Signal = Literal["pulse", "resp"]
Input = Literal["rgb", "flow"]
WAVE_OF = {"pulse": "ppg", "resp": "resp"}
RATE_OF = {"pulse": "hr", "resp": "rr"}


@dataclass
class FaceClips:
    """Windows of synchronous maps.

    Args:
        maps: map of each camera, (B, C, M, L); patches in rows, time in columns; zeros where the camera is absent.
        present: whether the camera filmed the session, (B,) by camera.
        moments: moments of (skin colour, 1), (B, L, C + 1, C + 1) by camera, as in `CameraMap`; empty for flow.
        wave: contact wave, (B, L); NaN where there was none.
        rate: rate of a device over the window, per minute, (B,); NaN where there was none.
        level: motion level of synthetic sessions, (B,); NaN for others.
        sessions: names of the sessions.
        fs: columns a second.
        subjects: person of each session.
    """

    maps: dict[str, Tensor]
    present: dict[str, Tensor]
    moments: dict[str, Tensor]
    wave: Tensor
    rate: Tensor
    level: Tensor
    sessions: list[str]
    fs: float
    subjects: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sessions)

    def to(self, device: torch.device | str) -> FaceClips:
        """Return the clips on a device."""

        def moved(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in group.items()}

        return replace(
            self,
            maps=moved(self.maps),
            present=moved(self.present),
            moments=moved(self.moments),
            wave=self.wave.to(device),
            rate=self.rate.to(device),
            level=self.level.to(device),
        )


@dataclass
class AlignedSession:
    """Session on a common clock.

    Args:
        name: name of the session.
        subject: person.
        maps: map of each camera, (C, M, N) float32.
        moments: moments of (skin colour, 1), (N, C + 1, C + 1) by camera; empty for flow.
        wave: contact wave, (N,) float32; NaN where there was none.
        rate: rate of a device, per minute, (N,) float32; NaN where there was none.
        level: motion level of a synthetic session, else NaN.
    """

    name: str
    subject: str
    maps: dict[str, np.ndarray]
    moments: dict[str, np.ndarray] = field(default_factory=dict)
    wave: np.ndarray = field(default_factory=lambda: np.empty(0))
    rate: np.ndarray = field(default_factory=lambda: np.empty(0))
    level: float = float("nan")

    @property
    def length(self) -> int:
        """Number of columns."""
        return next(iter(self.maps.values())).shape[-1]


def interpolate(values: np.ndarray, t: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """Interpolate along the first axis, linearly; values at the ends are held.

    Args:
        values: samples, (T, ...).
        t: rising times of the samples, (T,).
        clock: times to interpolate at, (N,).
    """
    right = np.clip(np.searchsorted(t, clock), 1, len(t) - 1)
    weight = np.clip((clock - t[right - 1]) / (t[right] - t[right - 1]), 0, 1).astype(np.float32)
    weight = weight.reshape(-1, *[1] * (values.ndim - 1))
    return values[right - 1] * (1 - weight) + values[right] * weight


def common_clock(start: float, end: float) -> np.ndarray:
    """Return times at 30 Hz from `start` to `end`, both included, (N,).

    A time stamp that was rounded to milliseconds costs no column.

    Args:
        start: first time in seconds.
        end: last time in seconds.
    """
    return start + np.arange(int((end - start) * WORK_FS + 0.05) + 1) / WORK_FS


def change_rate(values: np.ndarray, fs: float) -> np.ndarray:
    """Bring values from 30 Hz to another rate along the first axis, with a zero-phase low-pass filter.

    Args:
        values: samples at 30 Hz, (N, ...).
        fs: samples a second of the result.
    """
    ratio = Fraction(fs / WORK_FS).limit_denominator(1000)
    if ratio == 1:
        return values
    widest = max(ratio.numerator, ratio.denominator)
    window = firwin(20 * widest + 1, 1 / widest)
    mean = values.mean(axis=0, keepdims=True)  # the filter takes samples beyond the ends for zero
    return resample_poly(values - mean, ratio.numerator, ratio.denominator, axis=0, window=window) + mean


def velocity(camera_map: CameraMap) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertical speed of the patches, in pixels per 1/30 s, and the times that it belongs to.

    Flow is a displacement between two frames: dropped frames make it larger, and it belongs to the time between them.

    Args:
        camera_map: map with flow (T, M).

    Returns:
        Speed (T - 1, M) and times (T - 1,).
    """
    steps = np.diff(camera_map.t)
    return camera_map.flow[1:] / (steps[:, None] * WORK_FS), camera_map.t[1:] - steps / 2


def overlap(session: Session, signal: Signal) -> tuple[float, float]:
    """Return the time that all cameras of a session, and its contact wave if there is one, have in common.

    Args:
        session: session with at least one camera.
        signal: pulse or resp.

    Raises:
        ValueError: there is no such time.
    """
    clocks = {f"camera {name}": camera_map.t for name, camera_map in session.cameras.items()}
    if session.truth is not None and WAVE_OF[signal] in session.truth.waves:
        clocks["the contact wave"] = session.truth.t
    start, end = max(t[0] for t in clocks.values()), min(t[-1] for t in clocks.values())
    if end <= start:
        spans = ", ".join(f"{name} {t[0]:.2f} to {t[-1]:.2f} s" for name, t in clocks.items())
        raise ValueError(f"session {session.name}: the recordings do not overlap in time: {spans}")
    return start, end


def align(session: Session, signal: Signal, source: Input, fs: float) -> AlignedSession:
    """Bring a session to a common clock by its time stamps.

    Args:
        session: session to align.
        signal: wave that counts as the truth, pulse or resp.
        source: rgb or flow.
        fs: columns a second.

    Raises:
        ValueError: its recordings do not overlap in time, or have no flow.
    """
    if source == "flow" and (without := [name for name, found in session.cameras.items() if not found.flow.any()]):
        raise ValueError(
            f"session {session.name}: the map of camera {without[0]} was built without optical flow: dataset.flow=true "
            "or scripts.build_stmaps without --no-flow, into another folder"
        )
    start, end = overlap(session, signal)
    clock = common_clock(start, end)
    maps, moments = {}, {}
    for name, camera_map in session.cameras.items():
        values, t = (camera_map.rgb, camera_map.t) if source == "rgb" else velocity(camera_map)
        on_clock = change_rate(interpolate(values.reshape(len(t), -1), t, clock), fs)
        shaped = on_clock.reshape(len(on_clock), *values.shape[1:])
        shaped = shaped if source == "rgb" else shaped[:, :, None]
        maps[name] = np.ascontiguousarray(shaped.transpose(2, 1, 0), dtype=np.float32)
        if source == "rgb":
            moment = camera_map.moments()
            on_clock = change_rate(interpolate(moment.reshape(len(t), -1), t, clock), fs)
            moments[name] = on_clock.reshape(-1, *moment.shape[1:])
    length = next(iter(maps.values())).shape[-1]
    wave, rate = _reference(session.truth, signal, clock, fs, length)
    level = float(session.meta.get("level", float("nan")))
    return AlignedSession(session.name, session.subject, maps, moments, wave, rate, level)


def _reference(
    truth: Truth | None, signal: Signal, clock: np.ndarray, fs: float, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the contact wave and the rate of a device on the clock, NaN where there is none."""
    found = []
    for group, name in (("waves", WAVE_OF[signal]), ("rates", RATE_OF[signal])):
        values = None if truth is None else getattr(truth, group).get(name)
        if values is None:
            found.append(np.full(length, np.nan, np.float32))
            continue
        assert truth is not None
        found.append(change_rate(interpolate(np.asarray(values, np.float32), truth.t, clock), fs)[:length])
    return found[0].astype(np.float32), found[1].astype(np.float32)


def cut(aligned: Sequence[AlignedSession], starts: Sequence[int], length: int, fs: float) -> FaceClips:
    """Return a window of each session.

    Args:
        aligned: sessions, one for each window; the same one may occur again.
        starts: first column of each window.
        length: columns of a window.
        fs: columns a second.
    """
    cameras = list(dict.fromkeys(name for session in aligned for name in session.maps))
    places = [(session, slice(start, start + length)) for session, start in zip(aligned, starts, strict=True)]

    def stack(group: str, name: str, axis: int) -> Tensor:
        like = next(getattr(s, group)[name] for s in aligned if name in getattr(s, group))
        shape = list(like.shape)
        shape[axis] = length
        parts = []
        for session, place in places:
            values = getattr(session, group).get(name)
            index = (place,) if axis == 0 else (slice(None), slice(None), place)
            parts.append(np.zeros(shape, np.float32) if values is None else values[index])
        return torch.from_numpy(np.stack(parts).astype(np.float32))

    with_moments = [name for name in cameras if any(name in session.moments for session in aligned)]
    rates = [_mean_rate(session.rate[place]) for session, place in places]
    return FaceClips(
        {name: stack("maps", name, 2) for name in cameras},
        {name: torch.tensor([name in session.maps for session in aligned]) for name in cameras},
        {name: stack("moments", name, 0) for name in with_moments},
        torch.from_numpy(np.stack([session.wave[place] for session, place in places])),
        torch.tensor(rates, dtype=torch.float32),
        torch.tensor([session.level for session in aligned], dtype=torch.float32),
        [session.name for session in aligned],
        fs,
        [session.subject for session in aligned],
    )


def _mean_rate(values: np.ndarray) -> float:
    return float(values[values > 0].mean()) if (values > 0).any() else float("nan")
