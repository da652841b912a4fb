"""Files of a measured video: tables of waves and rates, and a figure without a face."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from methods.calibrationphys.figures import RATE_LABEL
from methods.calibrationphys.predictor import Measurement
from methods.calibrationphys.rates import inside, spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"pulse": "pulse", "resp": "respiration"}


def write_waves(measurement: Measurement, path: Path) -> None:
    """Write the waves as csv: t in seconds, and a column for each camera.

    Args:
        measurement: waves to write.
        path: file to write.
    """
    cameras = list(measurement.waves)
    count = len(next(iter(measurement.waves.values())))
    t = measurement.start + np.arange(count) / measurement.fs
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t", *cameras])
        for row in zip(t, *measurement.waves.values(), strict=True):
            writer.writerow([f"{value:.5f}" for value in row])


def write_rates(measurements: Sequence[Measurement], path: Path) -> None:
    """Write the rates of all windows as csv.

    Args:
        measurements: measurements of one recording.
        path: file to write.
    """
    columns = [
        "signal",
        "method",
        "camera",
        "start",
        "end",
        "rate_per_minute",
        "snr_db",
        "ipr",
        "camera_difference",
        "good",
    ]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for m in measurements:
            for camera in m.waves:
                good = m.good(camera)
                for k, start in enumerate(m.windows):
                    begin = m.start + start
                    numbers = [begin, begin + m.seconds, m.rates[camera][k], m.snr[camera][k], m.ipr[camera][k]]
                    shown = [f"{value:.3f}" for value in numbers]
                    difference = "" if np.isnan(m.agreement[k]) else f"{m.agreement[k]:.2f}"
                    writer.writerow([NAMES[m.signal], m.method, camera, *shown, difference, int(good[k])])


def summary_lines(measurement: Measurement) -> list[str]:
    """Return a line for each camera: median rate of the good windows, how many are good, quality.

    Args:
        measurement: measurement to describe.
    """
    lines = []
    for camera, rates in measurement.rates.items():
        good = measurement.good(camera)
        value = float(np.median(rates[good] if good.any() else rates))
        doubt = "" if good.any() else "  (no window can be trusted)"
        lines.append(
            f"{NAMES[measurement.signal]:12s} {camera:16s} {value:6.1f} per minute by {measurement.method}, "
            f"{int(good.sum())}/{len(good)} windows of {measurement.seconds:g} s good, "
            f"median SNR {np.median(measurement.snr[camera]):.1f} dB{doubt}"
        )
    return lines


def plot_measurement(measurement: Measurement) -> Figure:
    """Draw wave, spectrum and rate over time.

    Args:
        measurement: measurement to draw.
    """
    import matplotlib.pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(6.6, 6), layout="constrained")
    for number, (camera, wave) in enumerate(measurement.waves.items()):
        seconds = measurement.start + np.arange(len(wave)) / measurement.fs
        top.plot(seconds, wave - 5 * number, lw=0.9, label=camera)
        frequencies, power = spectrum(wave, measurement.fs, measurement.readout.nfft)
        keep = inside(frequencies, measurement.readout.band)
        middle.plot(60 * frequencies[keep], power[keep] / power[keep].max(), label=camera)
        centre = measurement.start + measurement.windows + measurement.seconds / 2
        rates, good = measurement.rates[camera], measurement.good(camera)
        (line,) = bottom.plot(centre, rates, lw=0.8)
        bottom.scatter(centre[good], rates[good], s=12, color=line.get_color(), label=camera)
        bottom.scatter(centre[~good], rates[~good], s=12, facecolors="none", edgecolors=line.get_color())
    top.set(xlabel="time (s)", ylabel=NAMES[measurement.signal], yticks=[])
    middle.set(xlabel=RATE_LABEL[measurement.signal], ylabel="relative power")
    bottom.set(xlabel="time (s), middle of the window", ylabel="rate (1/min)")
    bottom.set_title(
        "filled: windows with SNR above 0 dB, no gap" + ("" if len(measurement.waves) == 1 else " and agreement")
    )
    for axes in (middle, bottom):
        axes.grid(alpha=0.3)
    if len(measurement.waves) > 1:
        top.legend(ncols=3, fontsize=7)
    return figure


def write_measurement(measurement: Measurement, folder: Path, name: str) -> list[Path]:
    """Write rates, waves and figure of a measurement, and return the files.

    Args:
        measurement: what to write.
        folder: folder of the files; it must exist.
        name: beginning of their names.
    """
    import matplotlib.pyplot as plt

    paths = [folder / f"{name}_rates.csv", folder / f"{name}_waves.csv", folder / f"{name}.png"]
    write_rates([measurement], paths[0])
    write_waves(measurement, paths[1])
    figure = plot_measurement(measurement)
    figure.savefig(paths[2])
    plt.close(figure)
    return paths
