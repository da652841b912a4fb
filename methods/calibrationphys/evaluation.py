"""Test of methods that give a wave for each camera: rates of windows against the contact sensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from datasets.faces.clips import FaceClips
from methods.calibrationphys.metrics import rate_metrics, standard_error
from methods.calibrationphys.rates import (
    Readout,
    fused_rates,
    max_cross_correlation,
    out_of_band,
    peak_rates,
    signal_to_noise,
    summed_rate,
)


@dataclass
class CameraWindows:
    """Test windows of one camera: estimated and reference rates with their quality, (N,) each."""

    rates: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    snr: list[float] = field(default_factory=list)
    ipr: list[float] = field(default_factory=list)
    macc: list[float] = field(default_factory=list)
    level: list[float] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    session_rates: list[float] = field(default_factory=list)  # one for each session
    session_reference: list[float] = field(default_factory=list)


class RateEvaluation:
    """Rates of test windows of each camera, and of all cameras together.

    The reference is the same estimator applied to the contact wave of the window; where there is no wave, the rate that
    a device showed.

    Args:
        cameras: names of the cameras.
        readout: how a rate is read off a wave.
    """

    def __init__(self, cameras: Sequence[str], readout: Readout) -> None:
        self.readout = readout
        self.windows = {name: CameraWindows() for name in cameras}
        self.fused, self.fused_reference = list[float](), list[float]()
        self.differences: list[float] = []
        self.example: dict[str, Any] = {}

    def add(self, clips: FaceClips, waves: Mapping[str, Tensor]) -> None:
        """Add the windows of a session.

        Args:
            clips: windows of one session.
            waves: wave of each camera, (B, T).
        """
        contact = clips.wave.cpu().double().numpy()
        has_wave = np.isfinite(contact).all()
        reference = clips.rate.cpu().double().numpy()
        if has_wave:
            reference = peak_rates(contact, clips.fs, self.readout)
        arrays = {
            name: wave.detach().cpu().double().numpy() for name, wave in waves.items() if bool(clips.present[name][0])
        }
        for name, wave in arrays.items():
            self._add_camera(name, wave, clips, contact if has_wave else None, reference)
        known = np.isfinite(reference)
        if len(arrays) > 1 and known.any():
            fused = fused_rates(list(arrays.values()), clips.fs, self.readout)
            self.fused += fused[known].tolist()
            self.fused_reference += reference[known].tolist()
        if len(arrays) > 1:
            rates = np.stack([peak_rates(wave, clips.fs, self.readout) for wave in arrays.values()])
            self.differences += np.ptp(rates, axis=0).tolist()
        if not self.example:
            truth = contact[0] if has_wave else None
            self.example = {"fs": clips.fs, "truth": truth, "waves": {n: w[0] for n, w in arrays.items()}}

    def _add_camera(
        self, name: str, wave: np.ndarray, clips: FaceClips, contact: np.ndarray | None, reference: np.ndarray
    ) -> None:
        rates = peak_rates(wave, clips.fs, self.readout)
        known = np.isfinite(reference)
        to = self.windows[name]
        to.rates += rates.tolist()
        to.reference += reference.tolist()
        at = np.where(known, reference, rates)
        to.snr += signal_to_noise(wave, clips.fs, at, self.readout).tolist()
        to.ipr += out_of_band(wave, clips.fs, self.readout).tolist()
        to.level += clips.level.tolist()
        to.subjects += clips.subjects or clips.sessions
        seconds = wave.shape[1] / clips.fs
        if contact is not None:
            filtered = [np.asarray(x) for x in (wave, contact)]
            to.macc += max_cross_correlation(*filtered).tolist()
            to.session_reference.append(self._session_rate(contact, clips.fs, seconds))
            to.session_rates.append(self._session_rate(wave, clips.fs, seconds))

    def _session_rate(self, windows: np.ndarray, fs: float, seconds: float) -> float:
        """Return one rate for all windows of a session: the peak of their summed spectra."""
        return summed_rate(windows.reshape(-1), fs, self.readout, seconds, step=seconds)

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name: `<metric>_<camera>`, `mae` as the mean of the cameras, `mae_fused`, ...

        Raises:
            ValueError: no test window has a reference.
        """
        found: dict[str, float] = {}
        maes = []
        for name, windows in self.windows.items():
            known = np.isfinite(windows.reference)
            if not windows.rates:
                continue
            found[f"ipr_{name}"] = float(np.mean(windows.ipr))
            found[f"snr_{name}"] = float(np.mean(windows.snr))
            if not known.any():
                continue
            rates, reference = np.array(windows.rates)[known], np.array(windows.reference)[known]
            own = rate_metrics(rates, reference)
            maes.append(own["mae"])
            found |= {f"{metric}_{name}": value for metric, value in own.items() if np.isfinite(value)}
            subjects = [s for s, k in zip(windows.subjects, known, strict=True) if k]
            found[f"mae_se_{name}"] = standard_error(rates - reference, subjects)
            if windows.macc:
                found[f"macc_{name}"] = float(np.mean(windows.macc))
                errors = np.subtract(windows.session_rates, windows.session_reference)
                found[f"mae_session_{name}"] = float(np.abs(errors).mean())
        if maes:
            found["mae"] = float(np.mean(maes))
        if self.fused:
            found["mae_fused"] = rate_metrics(np.array(self.fused), np.array(self.fused_reference))["mae"]
        if self.differences:
            found["agreement"] = float((np.array(self.differences) < self.readout.agreement).mean())
        return found
