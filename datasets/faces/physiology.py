"""Synthetic heart and breath: rates that vary, waves, and how breathing modulates the pulse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LATENT_FS = 240.0  # Hz
RECORD_COLUMNS = (("t", "time [s]"), ("ppg", "pleth"), ("resp",))


@dataclass
class Physiology:
    """Latent waves of one session on one clock.

    Args:
        t: seconds, (N,).
        pulse: blood volume, zero mean, unit variance before its amplitude modulation, (N,).
        resp: breathing, zero mean, unit variance, (N,).
        heart_rate: beats per minute over time, (N,).
        resp_rate: breaths per minute over time, (N,).
        baseline: weight of breathing in the baseline of the pulse, in standard deviations of the pulse.
    """

    t: np.ndarray
    pulse: np.ndarray
    resp: np.ndarray
    heart_rate: np.ndarray
    resp_rate: np.ndarray
    baseline: float


def coloured_noise(
    rng: np.random.Generator, count: int, fs: float, band: tuple[float, float], beta: float = 1.0
) -> np.ndarray:
    """Return noise of unit variance whose power falls as 1/f^beta within a band, and is zero outside, (count,).

    Args:
        rng: source of randomness.
        count: number of samples.
        fs: samples a second.
        band: lowest and highest frequency in Hz.
        beta: exponent of the power.
    """
    padded = max(count, int(4 * fs / band[0]))  # slow components must be present in short signals too
    frequencies = np.fft.rfftfreq(padded, 1 / fs)
    inside = (frequencies >= band[0]) & (frequencies <= band[1])
    spectrum = np.zeros(len(frequencies), complex)
    size = int(inside.sum())
    spectrum[inside] = (rng.normal(size=size) + 1j * rng.normal(size=size)) * frequencies[inside] ** (-beta / 2)
    noise = np.fft.irfft(spectrum, padded)
    return noise[:count] / noise.std()


def gaussian_pulse(notch: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a pulse shape of two wrapped Gaussians: systolic peak and dicrotic wave.

    Args:
        notch: height of the dicrotic wave.
    """

    def shape(phase: np.ndarray) -> np.ndarray:
        def bump(centre: float, width: float) -> np.ndarray:
            distance = (phase - centre + 0.5) % 1 - 0.5
            return np.exp(-(distance**2) / (2 * width**2))

        return bump(0.28, 0.11) + notch * bump(0.62, 0.15)

    return shape


def fourier_pulse(phase: np.ndarray) -> np.ndarray:
    """Return the Fourier fit of pulse waves from faces by Bousefsaf et al. (2019).

    Args:
        phase: beats, any shape.
    """
    angle = 2 * np.pi * phase
    fundamental = -0.3345 * np.cos(angle) - 0.1990 * np.sin(angle)
    return 0.4402 + fundamental - 0.0502 * np.cos(2 * angle) + 0.0993 * np.sin(2 * angle)


def standardised(shape: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a pulse shape with zero mean and unit variance over a beat.

    Args:
        shape: value of the pulse by phase.
    """
    beat = shape(np.arange(1024) / 1024)
    mean, std = beat.mean(), beat.std()
    return lambda phase: (shape(phase) - mean) / std


def draw_physiology(
    rng: np.random.Generator,
    seconds: float,
    lead: float = 2.0,
    heart_range: tuple[float, float] = (50.0, 110.0),
    resp_range: tuple[float, float] = (9.0, 24.0),
) -> Physiology:
    """Draw heart and breath of one session.

    Breathing changes the rate of the heart (respiratory sinus arrhythmia), the height of the pulse and its baseline.

    Args:
        rng: source of randomness.
        seconds: duration.
        lead: seconds before 0 and after the end that are drawn too, for cameras that start earlier or later.
        heart_range: range of the mean heart rate, beats per minute.
        resp_range: range of the mean respiratory rate, breaths per minute.
    """
    count = int((seconds + 2 * lead) * LATENT_FS)
    t = np.arange(count) / LATENT_FS - lead
    mean_resp = rng.uniform(*resp_range) / 60
    resp_rate = mean_resp * (1 + 0.06 * coloured_noise(rng, count, LATENT_FS, (0.01, 0.08)))
    angle = 2 * np.pi * (np.cumsum(resp_rate) / LATENT_FS + rng.uniform())
    resp = np.sin(angle + 0.35 * np.sin(angle))
    resp = (resp - resp.mean()) / resp.std()

    mean_heart = rng.uniform(*heart_range) / 60
    low = rng.uniform(0.005, 0.025) * coloured_noise(rng, count, LATENT_FS, (0.07, 0.13))
    very_low = 0.01 * coloured_noise(rng, count, LATENT_FS, (0.01, 0.04))
    arrhythmia = rng.uniform(0.01, 0.05) * resp / np.sqrt(2)
    heart_rate = mean_heart * (1 + low + arrhythmia + very_low)
    phase = np.cumsum(heart_rate) / LATENT_FS + rng.uniform()
    raw = gaussian_pulse(rng.uniform(0.2, 0.5)) if rng.uniform() < 0.5 else fourier_pulse
    pulse = standardised(raw)(phase) * (1 + rng.uniform(0.05, 0.15) * resp / np.sqrt(2))
    return Physiology(t, pulse, resp, 60 * heart_rate, 60 * resp_rate, rng.uniform(0.05, 0.3))


@dataclass
class Record:
    """Waves that contact sensors recorded.

    Args:
        t: seconds, (n,).
        ppg: pulse wave, (n,).
        resp: breathing, (n,).
    """

    t: np.ndarray
    ppg: np.ndarray
    resp: np.ndarray


def read_record(path: Path) -> Record:
    """Read the columns `t` or `Time [s]`, `ppg` or `PLETH`, `resp` or `RESP` of a csv file, such as those of BIDMC.

    Args:
        path: csv file.

    Raises:
        ValueError: a column is missing, or a value is no number.
    """
    with open(path, newline="") as file:
        header = [cell.strip().lower() for cell in file.readline().split(",")]
        places = [next((header.index(n) for n in names if n in header), -1) for names in RECORD_COLUMNS]
        if -1 in places:
            raise ValueError(f"{path} lacks the column {' or '.join(RECORD_COLUMNS[places.index(-1)])}")
        columns = np.loadtxt(file, delimiter=",", usecols=places, ndmin=2).T
    return Record(*columns)


def physiology_from_record(
    rng: np.random.Generator, record: Record, seconds: float, baseline: float = 0.15, lead: float = 2.0
) -> Physiology:
    """Return latent waves from a random part of a record, in place of synthetic ones. Rates are unknown (NaN).

    Args:
        rng: source of randomness.
        record: waves of contact sensors.
        seconds: duration.
        baseline: weight of breathing in the baseline of the pulse.
        lead: seconds before 0 and after the end that are taken too.

    Raises:
        ValueError: the record is shorter.
    """
    length = seconds + 2 * lead
    spare = record.t[-1] - record.t[0] - length
    if spare < 0:
        raise ValueError(f"the record has {record.t[-1] - record.t[0]:.0f} s, a session needs {length:.0f} s")
    clock = np.arange(int(length * LATENT_FS)) / LATENT_FS
    begin = record.t[0] + rng.uniform(0, spare)

    def wave(values: np.ndarray) -> np.ndarray:
        interpolated = np.interp(clock + begin, record.t, values)
        return (interpolated - interpolated.mean()) / interpolated.std()

    unknown = np.full(len(clock), np.nan)
    return Physiology(clock - lead, wave(record.ppg), wave(record.resp), unknown, unknown, baseline)
