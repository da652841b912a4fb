"""Hand-crafted respiratory waves: from optical flow, and from what breathing does to the pulse."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.signal import find_peaks

from methods.calibrationphys.colour import green, pos_raw
from methods.calibrationphys.rates import READOUTS, band_pass


def flow_mean(flow: np.ndarray, fs: float) -> np.ndarray:
    """Return the displacement of the whole box: the sum over time of its mean vertical speed, (B, T).

    Args:
        flow: vertical speed of the patches, (B, T, M).
        fs: samples a second.
    """
    return np.cumsum(flow.mean(axis=2), axis=1)


def baseline_wander(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return the slow part of minus the green channel, (B, T).

    Args:
        rgb: mean colours, (B, T, C).
        fs: samples a second.
    """
    return band_pass(green(rgb, fs), fs, READOUTS["resp"].band)


def amplitude_modulation(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return the height of the pulse from trough to peak, beat by beat, interpolated, (B, T).

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    return np.array([_amplitudes(pulse, fs) for pulse in _pulse(rgb, fs)])


def frequency_modulation(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return the time between beats, interpolated, (B, T).

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    return np.array([_intervals(pulse, fs) for pulse in _pulse(rgb, fs)])


def _pulse(rgb: np.ndarray, fs: float) -> np.ndarray:
    wave = pos_raw(rgb, fs) if rgb.shape[-1] > 1 else green(rgb, fs)
    return band_pass(wave, fs, READOUTS["pulse"].band)


def beats(pulse: np.ndarray, fs: float) -> np.ndarray:
    """Return the places of the beats of a pulse wave, in samples with parts of a sample, (N,).

    Args:
        pulse: band-passed pulse wave, (T,).
        fs: samples a second.
    """
    peaks, _ = find_peaks(pulse, distance=max(1, round(0.33 * fs)), prominence=0.3 * pulse.std())
    peaks = peaks[(peaks > 0) & (peaks < len(pulse) - 1)]
    left, centre, right = pulse[peaks - 1], pulse[peaks], pulse[peaks + 1]
    curvature = left - 2 * centre + right
    return peaks + 0.5 * (left - right) / np.where(curvature == 0, 1, curvature)


def _amplitudes(pulse: np.ndarray, fs: float) -> np.ndarray:
    peaks = beats(pulse, fs)
    whole = peaks.round().astype(int)
    if len(peaks) < 3:
        return np.zeros(len(pulse))
    troughs = np.array([pulse[a:b].min() for a, b in pairwise(whole)])
    return np.interp(np.arange(len(pulse)), peaks[1:], pulse[whole[1:]] - troughs)


def _intervals(pulse: np.ndarray, fs: float) -> np.ndarray:
    peaks = beats(pulse, fs)
    if len(peaks) < 3:
        return np.zeros(len(pulse))
    return np.interp(np.arange(len(pulse)), (peaks[1:] + peaks[:-1]) / 2, np.diff(peaks) / fs)
