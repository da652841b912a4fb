"""Power spectra of waves as distributions over a band of frequencies."""

from __future__ import annotations

import torch
from torch import Tensor

EDGE = 1e-6  # Hz; rounding must not drop the first and last bin of a band
TINY = 1e-12


def power_spectrum(waves: Tensor, fs: float, nfft: int | None = None) -> tuple[Tensor, Tensor]:
    """Return frequencies (F,) in Hz and the power of waves without their mean, (..., F).

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        nfft: length of the transform; shorter waves are padded with zeros. None: T.
    """
    centred = waves - waves.mean(dim=-1, keepdim=True)
    power = torch.fft.rfft(centred, n=nfft or waves.shape[-1]).abs().square()
    return torch.fft.rfftfreq(nfft or waves.shape[-1], 1 / fs, device=waves.device), power


def in_band(frequencies: Tensor, band: tuple[float, float]) -> Tensor:
    """Return which frequencies lie in a band, ends included, (F,).

    Args:
        frequencies: Hz, (F,).
        band: lowest and highest frequency in Hz.
    """
    return (frequencies >= band[0] - EDGE) & (frequencies <= band[1] + EDGE)


def norm_psd(waves: Tensor, fs: float, band: tuple[float, float], nfft: int | None = None) -> Tensor:
    """Return the power in a band as a distribution over its K bins, (..., K).

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        band: lowest and highest frequency in Hz.
        nfft: length of the transform; None: T.

    Raises:
        ValueError: fewer than two bins lie in the band.
    """
    frequencies, power = power_spectrum(waves, fs, nfft)
    inside = in_band(frequencies, band)
    if inside.sum() < 2:
        raise ValueError(
            f"method.band={list(band)}: a clip of {waves.shape[-1] / fs:.1f} s has fewer than two frequencies in it; "
            "raise dataset.clip_length"
        )
    power = power[..., inside]
    return power / (power.sum(dim=-1, keepdim=True) + TINY)


def irrelevant_power_ratio(waves: Tensor, fs: float, band: tuple[float, float]) -> Tensor:
    """Return the share of power outside a band (IPR), (...).

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        band: lowest and highest frequency in Hz.
    """
    frequencies, power = power_spectrum(waves, fs)
    total = power.sum(dim=-1) + TINY
    return 1 - power[..., in_band(frequencies, band)].sum(dim=-1) / total


def irrelevant_amplitude_ratio(waves: Tensor, fs: float, band: tuple[float, float]) -> Tensor:
    """Return the IPR as the code of RemotePPG computes it: a share of amplitudes, the mean included, (...).

    Args:
        waves: waves, (..., T).
        fs: samples a second.
        band: lowest and highest frequency in Hz.
    """
    amplitude = torch.fft.rfft(waves).abs()
    inside = in_band(torch.fft.rfftfreq(waves.shape[-1], 1 / fs, device=waves.device), band)
    return 1 - amplitude[..., inside].sum(dim=-1) / (amplitude.sum(dim=-1) + TINY)
