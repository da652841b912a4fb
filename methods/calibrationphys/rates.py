"""From waves to rates: filters, spectral peaks, and how far a peak can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfiltfilt
from scipy.signal.windows import hann
from scipy.sparse import diags, identity
from scipy.sparse.linalg import splu

EDGE = 1e-6  # Hz; rounding must not drop the first and last bin of a band


@dataclass(frozen=True)
class Readout:
    """Readout of a rate from a wave.

    Args:
        band: lowest and highest frequency in Hz.
        nfft: length of the transform; shorter waves are padded with zeros.
        tolerance: half width in Hz of the peak that counts as signal.
        agreement: per minute; cameras whose rates differ by less agree.
    """

    band: tuple[float, float]
    nfft: int
    tolerance: float
    agreement: float


READOUTS = {"pulse": Readout((0.66, 3.0), 8192, 6 / 60, 5.0), "resp": Readout((0.1, 0.5), 4096, 2 / 60, 2.0)}


def detrend(waves: np.ndarray, smoothness: float = 100.0) -> np.ndarray:
    """Remove the slow trend along the last axis by the smoothness prior (Tarvainen et al. 2002).

    Args:
        waves: waves, (..., T).
        smoothness: regularisation lambda.
    """
    count = waves.shape[-1]
    if count < 3:
        return waves - waves.mean(axis=-1, keepdims=True)
    second = diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(count - 2, count))
    system = splu((identity(count) + smoothness**2 * (second.T @ second)).tocsc())
    flat = np.asarray(waves, np.float64).reshape(-1, count)
    return (flat - system.solve(flat.T).T).reshape(waves.shape)


def band_pass(waves: np.ndarray, fs: float, band: tuple[float, float], order: int = 2) -> np.ndarray:
    """Filter along the last axis with a Butterworth band-pass, forwards and backwards.

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        band: lowest and highest frequency in Hz.
        order: order of the filter.
    """
    high = min(band[1], 0.499 * fs)
    sections = butter(order, (band[0], high), "bandpass", fs=fs, output="sos")
    padding = min(3 * (2 * len(sections) + 1), waves.shape[-1] - 1)
    return sosfiltfilt(sections, waves, axis=-1, padlen=padding)


def spectrum(waves: np.ndarray, fs: float, nfft: int, window: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies (F,) and the power of waves without their mean, (..., F).

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        nfft: length of the transform, at least T in effect.
        window: weight the samples with a Hann window.
    """
    centred = waves - waves.mean(axis=-1, keepdims=True)
    if window:
        centred = centred * hann(waves.shape[-1], sym=False)
    length = max(nfft, waves.shape[-1])
    return np.fft.rfftfreq(length, 1 / fs), np.abs(np.fft.rfft(centred, length, axis=-1)) ** 2


def inside(frequencies: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """Return which frequencies lie in a band, ends included, (F,)."""
    return (frequencies >= band[0] - EDGE) & (frequencies <= band[1] + EDGE)


def peak_rates(waves: np.ndarray, fs: float, readout: Readout, filtered: bool = True) -> np.ndarray:
    """Return the rate per minute of each wave: the peak of its windowed spectrum in the band, (...).

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        readout: band and length of the transform.
        filtered: band-pass the waves first, so that what lies outside the band does not leak into it.
    """
    if filtered:
        waves = band_pass(waves - waves.mean(axis=-1, keepdims=True), fs, readout.band)
    frequencies, power = spectrum(waves, fs, readout.nfft)
    keep = inside(frequencies, readout.band)
    return 60 * frequencies[keep][power[..., keep].argmax(axis=-1)]


def summed_rate(wave: np.ndarray, fs: float, readout: Readout, seconds: float, step: float = 1.0) -> float:
    """Return one rate per minute for a whole wave: the peak of the summed spectra of its sliding windows.

    Args:
        wave: wave, (T,).
        fs: samples a second.
        readout: band and length of the transform.
        seconds: length of a window; a shorter wave is one window.
        step: seconds between two windows.
    """
    length = min(round(seconds * fs), len(wave))
    windows = np.lib.stride_tricks.sliding_window_view(wave, length)[:: max(1, round(step * fs))]
    frequencies, power = spectrum(windows, fs, readout.nfft)
    keep = inside(frequencies, readout.band)
    banded = power[:, keep]
    shares = banded / (banded.sum(axis=1, keepdims=True) + 1e-12)
    return float(60 * frequencies[keep][shares.sum(axis=0).argmax()])


def signal_to_noise(waves: np.ndarray, fs: float, rates: np.ndarray, readout: Readout) -> np.ndarray:
    """Return 10 log10 of the power near a rate and its double over the rest of the band, in dB, (B,).

    Args:
        waves: waves, (B, T).
        fs: samples a second.
        rates: rate of each wave, per minute: the truth, or the wave's own peak as a quality index, (B,).
        readout: band (10 % wider on both sides here), length of the transform, half width of the peaks.
    """
    frequencies, power = spectrum(waves, fs, readout.nfft)
    band = inside(frequencies, (readout.band[0] * 0.9, readout.band[1] * 1.1))
    centre = np.asarray(rates)[:, None] / 60
    near = (np.abs(frequencies - centre) <= readout.tolerance) | (np.abs(frequencies - 2 * centre) <= readout.tolerance)
    signal = (power * (near & band)).sum(axis=1)
    rest = (power * (~near & band)).sum(axis=1)
    return 10 * np.log10((signal + 1e-20) / (rest + 1e-20))


def out_of_band(waves: np.ndarray, fs: float, readout: Readout) -> np.ndarray:
    """Return the share of the power outside the band (IPR), (...).

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        readout: band and length of the transform.
    """
    frequencies, power = spectrum(waves, fs, readout.nfft, window=False)
    total = power.sum(axis=-1)
    return 1 - power[..., inside(frequencies, readout.band)].sum(axis=-1) / np.where(total > 0, total, 1)


def max_cross_correlation(waves: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the largest absolute correlation over all circular shifts (MACC), (...).

    The sign and phase of a wave that was learned from spectra are arbitrary.

    Args:
        waves: waves, (..., T).
        truth: contact waves, (..., T).
    """

    def unit(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        return x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-12)

    product = np.fft.rfft(unit(waves), axis=-1) * np.conj(np.fft.rfft(unit(truth), axis=-1))
    return np.abs(np.fft.irfft(product, waves.shape[-1], axis=-1)).max(axis=-1)


def fused_rates(waves: list[np.ndarray], fs: float, readout: Readout) -> np.ndarray:
    """Return the rate of several cameras together, from the sum of their normalised spectra, (B,).

    Args:
        waves: waves of each camera, (B, T) each.
        fs: samples a second.
        readout: band and length of the transform.
    """
    total: np.ndarray | float = 0.0
    for each in waves:
        frequencies, power = spectrum(band_pass(each, fs, readout.band), fs, readout.nfft)
        keep = inside(frequencies, readout.band)
        total = total + power[:, keep] / (power[:, keep].sum(axis=1, keepdims=True) + 1e-12)
    return 60 * frequencies[keep][np.asarray(total).argmax(axis=1)]


def as_band(band: Sequence[float], key: str = "band") -> tuple[float, float]:
    """Return a band as two numbers.

    Args:
        band: lowest and highest frequency in Hz.
        key: name of the argument, for the message.

    Raises:
        ValueError: they are not two rising positive numbers.
    """
    if len(band) != 2 or not 0 < band[0] < band[1]:
        raise ValueError(f"method.{key} must be two rising positive frequencies in Hz, got {list(band)}")
    return float(band[0]), float(band[1])
