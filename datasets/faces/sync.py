"""Offsets between the clocks of cameras that filmed the same face, estimated from what both saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.faces.clips import WORK_FS, common_clock, interpolate, velocity
from datasets.faces.session import CameraMap

# Correlation from which an estimated offset is used, and its product with the root of the seconds compared. Unrelated
# motion correlates too at the best of so many shifts. 96 pairs of generated sessions had at most 0.66 in 10 s, 0.54 in
# 27 s; cameras of one session had at least 0.85. Heads that only breathe are regular, and reach more.
TRUSTED, TRUSTED_SHORT = 0.55, 2.2


@dataclass(frozen=True)
class Offset:
    """Offset of a camera's clock.

    Args:
        seconds: what must be added to the camera's time stamps.
        correlation: correlation of the motion that both cameras saw, at this offset.
        compared: seconds over which it was taken.
    """

    seconds: float
    correlation: float
    compared: float

    @property
    def trusted(self) -> bool:
        """True if the correlation is high enough for the offset to be used."""
        return self.compared > 0 and self.correlation >= max(TRUSTED, TRUSTED_SHORT / self.compared**0.5)


def motion_features(camera_map: CameraMap, clock: np.ndarray) -> np.ndarray:
    """Return what two views have in common: strength of motion, and change of brightness, standardised, (2, N).

    Args:
        camera_map: map of a camera.
        clock: seconds, (N,).
    """
    speed, at = velocity(camera_map)
    motion = interpolate(np.abs(speed).mean(axis=1), at, clock)
    brightness = interpolate(camera_map.rgb.mean(axis=(1, 2)), camera_map.t, clock)
    features = np.stack([motion, np.gradient(brightness)])
    features = features - features.mean(axis=1, keepdims=True)
    return features / (features.std(axis=1, keepdims=True) + 1e-12)


def estimate_offset(reference: CameraMap, other: CameraMap, largest: float = 2.0) -> Offset:
    """Estimate the offset of a camera's clock to another one's, to 1/30 s.

    Both recordings are taken to begin at the same time, give or take `largest` seconds. The shift at which the
    motion or the brightness of both correlates most is taken, whichever correlates more; a largest shift is none.

    Args:
        reference: map of the camera whose clock counts.
        other: map of the camera whose offset is estimated.
        largest: largest offset in seconds.
    """
    start = max(reference.t[0], other.t[0])
    end = min(reference.t[-1], other.t[-1])
    if end - start < 2 * largest + 2:
        return Offset(0.0, 0.0, 0.0)
    clock = common_clock(start, end)
    a, b = motion_features(reference, clock), motion_features(other, clock)
    lags = np.arange(-round(largest * WORK_FS), round(largest * WORK_FS) + 1)
    edge = len(lags) // 2
    middle = slice(edge, len(clock) - edge)
    size = middle.stop - middle.start
    best = Offset(0.0, 0.0, size / WORK_FS)
    for x, y in zip(a[:, middle], b, strict=True):
        shifted = np.lib.stride_tricks.sliding_window_view(y, size)[edge + lags]
        shifted = shifted - shifted.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(shifted, axis=1) * np.linalg.norm(x - x.mean()) + 1e-12
        correlation = shifted @ (x - x.mean()) / norm
        k = int(correlation.argmax())
        if correlation[k] > best.correlation and 0 < k < len(lags) - 1:
            best = Offset(float(-lags[k] / WORK_FS), float(correlation[k]), size / WORK_FS)
    return best
