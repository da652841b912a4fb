"""Hand-crafted pulse waves from the mean colour of the face.

Each function maps colours (B, T, 3), in grey levels, to waves (B, T) that rise with blood volume, save for `ica`, whose
sign is unknown. More blood makes skin darker.
"""

from __future__ import annotations

import math

import numpy as np

from methods.calibrationphys.jade import jade
from methods.calibrationphys.rates import band_pass, detrend

PULSE_BAND = (0.7, 2.5)  # Hz, of the published implementations of ICA and CHROM


def relative(rgb: np.ndarray) -> np.ndarray:
    """Return colours divided by their mean over time, (..., T, 3)."""
    return rgb / np.maximum(rgb.mean(axis=-2, keepdims=True), 1e-9)


def overlap_add(pieces: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Add windows up at their places, (B, length).

    Args:
        pieces: windows, (B, W, l).
        starts: first sample of each window, different from each other, (W,).
        length: number of samples of the result.
    """
    total = np.zeros((len(pieces), length))
    for offset in range(pieces.shape[2]):
        total[:, starts + offset] += pieces[:, :, offset]
    return total


def _windows(rgb: np.ndarray, length: int) -> np.ndarray:
    """Return all windows of colours, (B, W, l, 3); one window if there are fewer samples."""
    length = min(length, rgb.shape[1])
    return np.lib.stride_tricks.sliding_window_view(rgb, length, axis=1).swapaxes(2, 3)


def green(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return minus the green channel (Verkruysse et al. 2008); a single channel is taken as it is.

    Args:
        rgb: mean colours, (B, T, C).
        fs: samples a second.
    """
    return -relative(rgb)[..., 1 if rgb.shape[-1] > 1 else 0]


def ica(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return the independent component with the sharpest spectrum (Poh et al. 2010).

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    channels = detrend(rgb.swapaxes(1, 2))
    channels = (channels - channels.mean(axis=-1, keepdims=True)) / (channels.std(axis=-1, keepdims=True) + 1e-12)
    waves = []
    for each in channels:
        sources = jade(each)
        power = np.abs(np.fft.rfft(sources, axis=-1)) ** 2
        waves.append(sources[(power.max(axis=-1) / (power.sum(axis=-1) + 1e-12)).argmax()])
    return band_pass(np.array(waves), fs, PULSE_BAND, order=3)


def chrom(
    rgb: np.ndarray, fs: float, hop: int | None = None, band: tuple[float, float] = PULSE_BAND, order: int = 3
) -> np.ndarray:
    """Return the chrominance wave (de Haan and Jeanne 2013): windows of 1.6 s with a Hann window, added up.

    The last samples that fill no window are zero.

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
        hop: samples between two windows; None: half a window.
        band: lowest and highest frequency of the filter, in Hz.
        order: order of the filter.

    Raises:
        ValueError: fewer than two windows fit.
    """
    length = math.ceil(1.6 * fs)
    length += length % 2
    if rgb.shape[1] < length:
        raise ValueError(f"CHROM needs at least {length} frames, got {rgb.shape[1]}")
    starts = np.arange(0, rgb.shape[1] - length + 1, length // 2 if hop is None else hop)
    colours = relative(_windows(rgb, length)[:, starts])
    red, green_, blue = np.moveaxis(colours, -1, 0)
    x = band_pass(3 * red - 2 * green_, fs, band, order)
    y = band_pass(1.5 * red + green_ - 1.5 * blue, fs, band, order)
    alpha = x.std(axis=-1, keepdims=True) / (y.std(axis=-1, keepdims=True) + 1e-12)
    return overlap_add((x - alpha * y) * np.hanning(length), starts, rgb.shape[1])


def pos(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return the wave of the plane orthogonal to skin (Wang et al. 2017), detrended and band-passed 0.75 to 3 Hz.

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    return band_pass(detrend(pos_raw(rgb, fs)), fs, (0.75, 3.0), order=1)


def pos_raw(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return the wave of POS as its sliding windows of 1.6 s add up, without a filter after it.

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    colours = relative(_windows(rgb, math.ceil(1.6 * fs)))
    red, green_, blue = np.moveaxis(colours, -1, 0)
    first, second = green_ - blue, green_ + blue - 2 * red
    wave = first + first.std(axis=-1, keepdims=True) / (second.std(axis=-1, keepdims=True) + 1e-12) * second
    wave = wave - wave.mean(axis=-1, keepdims=True)
    return -overlap_add(wave, np.arange(wave.shape[1]), rgb.shape[1])


def pbv(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return the wave along the signature of blood volume (de Haan and van Leest 2014), estimated from the channels.

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    colours = relative(rgb).swapaxes(1, 2)  # (B, 3, T)
    signature = colours.std(axis=2)
    signature = signature / (np.linalg.norm(signature, axis=1, keepdims=True) + 1e-12)
    gram = colours @ colours.swapaxes(1, 2) + 1e-12 * np.eye(3)
    weights = np.linalg.solve(gram, signature[..., None])  # (B, 3, 1)
    wave = (colours.swapaxes(1, 2) @ weights)[..., 0]
    return -wave / (signature[:, None] @ weights)[..., 0]


def lgi(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return green outside the strongest direction of colour (local group invariance, Pilz et al. 2018).

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    left, _, _ = np.linalg.svd(rgb.swapaxes(1, 2), full_matrices=False)
    return -_outside(rgb, left[:, :, 0])


def omit(rgb: np.ndarray, fs: float) -> np.ndarray:
    """Return green outside the first direction of a QR factorisation (OMIT, 2023), which is the first frame's colour.

    Args:
        rgb: mean colours, (B, T, 3).
        fs: samples a second.
    """
    orthogonal, _ = np.linalg.qr(rgb.swapaxes(1, 2))
    return -_outside(rgb, orthogonal[:, :, 0])


def _outside(rgb: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the green channel after a direction (B, 3) is projected out, (B, T)."""
    along = np.einsum("btc,bc->bt", rgb, direction)
    return rgb[..., 1] - along * direction[:, None, 1]


def spatial_subspace_rotation(moments: np.ndarray, fs: float) -> np.ndarray:
    """Return the rotation of the subspace of skin colours (2SR, Wang et al. 2016), over windows of one second.

    Args:
        moments: second moments of the colours of skin pixels, (B, T, 3, 3).
        fs: samples a second.
    """
    values, vectors = np.linalg.eigh(moments)
    values, vectors = np.maximum(values[..., ::-1], 1e-12), vectors[..., ::-1]
    first = vectors[..., 0]
    first = first * np.sign(first.sum(axis=-1, keepdims=True))  # the sign of an eigenvector is arbitrary
    length = min(round(fs), moments.shape[1])
    starts = np.arange(moments.shape[1] - length + 1)
    inside = starts[:, None] + np.arange(length)  # (W, l)
    strength, axis = values[..., 0][:, inside], first[:, inside]  # (B, W, l), (B, W, l, 3)
    rotation = 0.0
    for k in (1, 2):
        direction = vectors[..., k][:, starts]  # (B, W, 3)
        along = np.einsum("bwlc,bwc->bwl", axis, direction)
        scale = np.sqrt(strength / values[..., k][:, starts][..., None])
        rotation = rotation + (scale * along)[..., None] * direction[:, :, None]
    x, y = np.asarray(rotation)[..., 0], np.asarray(rotation)[..., 1]
    wave = x - x.std(axis=-1, keepdims=True) / (y.std(axis=-1, keepdims=True) + 1e-12) * y
    return overlap_add(wave - wave.mean(axis=-1, keepdims=True), starts, moments.shape[1])
