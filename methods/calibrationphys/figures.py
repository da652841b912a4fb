"""Figures of a test: wave over truth, spectra of the cameras, scatter, Bland-Altman plot, error by motion level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from methods.calibrationphys.rates import Readout, band_pass, inside, max_cross_correlation, spectrum
from methods.plots import COLUMN_WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from methods.calibrationphys.evaluation import CameraWindows, RateEvaluation

RATE_LABEL = {"pulse": "heart rate (beats/min)", "resp": "respiratory rate (breaths/min)"}
SHORT_LABEL = {"pulse": "beats/min", "resp": "breaths/min"}


def evaluation_figures(evaluation: RateEvaluation, signal: str) -> dict[str, Figure]:
    """Draw everything that a test has data for.

    Args:
        evaluation: evaluation with its windows.
        signal: pulse or resp.
    """
    figures: dict[str, Figure | None] = {}
    example = evaluation.example
    if example:
        figures["wave"] = plot_waves(example["waves"], example["truth"], example["fs"], evaluation.readout)
        figures["spectra"] = plot_spectra(example["waves"], example["truth"], example["fs"], evaluation.readout)
    windows = {name: w for name, w in evaluation.windows.items() if np.isfinite(w.reference).any()}
    if windows:
        figures["scatter"] = plot_scatter(windows, RATE_LABEL[signal])
        figures["bland_altman"] = plot_bland_altman(windows, SHORT_LABEL[signal])
        figures["error_by_level"] = plot_error_by_level(windows, SHORT_LABEL[signal])
    return {name: figure for name, figure in figures.items() if figure is not None}


def plot_waves(waves: Mapping[str, np.ndarray], truth: np.ndarray | None, fs: float, readout: Readout) -> Figure:
    """Draw the waves of a window over the contact wave, each shifted and mirrored to where it correlates most.

    Args:
        waves: wave of each camera, (T,).
        truth: contact wave, (T,), or None.
        fs: samples a second.
        readout: band of the filter.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    reference = None if truth is None else standardise(band_pass(truth, fs, readout.band))
    for number, (name, wave) in enumerate(waves.items()):
        filtered = standardise(band_pass(wave, fs, readout.band))
        if reference is not None:
            filtered = aligned_to(filtered, reference)
        seconds = np.arange(len(filtered)) / fs
        axes.plot(seconds, filtered - 4 * number, label=name)
        if reference is not None:
            axes.plot(
                seconds, reference - 4 * number, color="black", lw=0.8, ls="--", label=None if number else "contact"
            )
    axes.set(xlabel="time (s)", yticks=[])
    axes.legend(ncols=3, loc="upper right", fontsize=7)
    axes.set_ylim(top=axes.get_ylim()[1] + 1.5)
    return figure


def standardise(wave: np.ndarray) -> np.ndarray:
    """Return a wave with zero mean and unit variance."""
    return (wave - wave.mean()) / (wave.std() + 1e-12)


def aligned_to(wave: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return a wave rolled and mirrored so that it correlates most with a reference.

    Args:
        wave: standardised wave, (T,).
        reference: standardised reference, (T,).
    """
    product = np.fft.irfft(np.fft.rfft(reference) * np.conj(np.fft.rfft(wave)), len(wave))
    shift = int(np.abs(product).argmax())
    best = np.roll(wave, shift) * np.sign(product[shift])
    assert np.isclose(abs(best @ reference), max_cross_correlation(wave, reference) * len(wave), rtol=1e-3)
    return best


def plot_spectra(waves: Mapping[str, np.ndarray], truth: np.ndarray | None, fs: float, readout: Readout) -> Figure:
    """Draw the normalised spectra of a window.

    Args:
        waves: wave of each camera, (T,).
        truth: contact wave, (T,), or None.
        fs: samples a second.
        readout: band and length of the transform.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    for name, wave in {**waves, **({} if truth is None else {"contact": truth})}.items():
        frequencies, power = spectrum(wave, fs, readout.nfft)
        keep = inside(frequencies, readout.band)
        style = {"color": "black", "lw": 0.8, "ls": "--"} if name == "contact" else {}
        axes.plot(60 * frequencies[keep], power[keep] / power[keep].max(), label=name, **style)
    axes.set(xlabel="rate (1/min)", ylabel="relative power")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    return figure


def plot_scatter(windows: Mapping[str, CameraWindows], label: str) -> Figure:
    """Draw estimated against reference rates.

    Args:
        windows: test windows by camera.
        label: name and unit of the rate.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.8), layout="constrained")
    ends = [
        min(min(w.reference + w.rates) for w in windows.values()),
        max(max(w.reference + w.rates) for w in windows.values()),
    ]
    axes.plot(ends, ends, color="grey", lw=0.8)
    for name, w in windows.items():
        axes.scatter(w.reference, w.rates, s=8, alpha=0.6, label=name)
    axes.set(xlabel=f"contact {label}", ylabel="from video")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    return figure


def plot_bland_altman(windows: Mapping[str, CameraWindows], unit: str) -> Figure:
    """Draw errors against the mean of both measurements, with bias and limits of agreement of each camera.

    Args:
        windows: test windows by camera.
        unit: unit of the rate.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.6), layout="constrained")
    for name, w in windows.items():
        rates, reference = np.array(w.rates), np.array(w.reference)
        error = rates - reference
        bias, spread = np.nanmean(error), 1.96 * np.nanstd(error)
        points = axes.scatter(
            (rates + reference) / 2, error, s=8, alpha=0.6, label=f"{name}: {bias:.2f} ± {spread:.2f}"
        )
        colour = points.get_facecolor()[0]
        axes.axhline(bias, color=colour, lw=1)
        for limit in (bias - spread, bias + spread):
            axes.axhline(limit, color=colour, lw=0.8, ls="--")
    axes.set(xlabel=f"mean of video and contact ({unit})", ylabel=f"video - contact ({unit})")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    return figure


def plot_error_by_level(windows: Mapping[str, CameraWindows], unit: str) -> Figure | None:
    """Draw the mean absolute error against the motion level of synthetic sessions; None if there is one level.

    Args:
        windows: test windows by camera.
        unit: unit of the rate.
    """
    levels = sorted({level for w in windows.values() for level in w.level if np.isfinite(level)})
    if len(levels) < 2:
        return None
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    for name, w in windows.items():
        error, own = np.abs(np.subtract(w.rates, w.reference)), np.array(w.level)
        axes.plot(levels, [np.nanmean(error[own == level]) for level in levels], marker="o", label=name)
    axes.set(xlabel="motion level", ylabel=f"mean absolute error ({unit})")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    return figure
