"""Rates, quality and errors against scipy, numpy and formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import signal, stats

from methods.calibrationphys import rates
from methods.calibrationphys.metrics import rate_metrics, standard_error
from methods.calibrationphys.rates import READOUTS

PULSE, RESP = READOUTS["pulse"], READOUTS["resp"]


def sine(rate: float, fs: float, seconds: float, phase: float = 0.3) -> np.ndarray:
    return np.sin(2 * np.pi * rate * np.arange(round(seconds * fs)) / fs + phase)


@pytest.mark.parametrize("fs", [15.0, 30.0])
def test_rate_of_a_sine(fs):
    assert rates.peak_rates(sine(1.25, fs, 10), fs, PULSE) == pytest.approx(75.0, abs=0.3)
    assert rates.peak_rates(sine(1.25, fs, 10), fs, PULSE, filtered=False) == pytest.approx(75.0, abs=0.2)
    assert rates.peak_rates(sine(0.25, fs, 40), fs, RESP) == pytest.approx(15.0, abs=0.2)


def test_rates_of_many_waves_are_those_of_each():
    waves = np.stack([sine(f, 30, 10) for f in (0.9, 1.4, 2.2)])
    together = rates.peak_rates(waves, 30, PULSE)
    np.testing.assert_allclose(together, [rates.peak_rates(w, 30, PULSE) for w in waves])
    np.testing.assert_allclose(together, [54, 84, 132], atol=0.5)


def test_summed_spectra_outvote_a_bad_window():
    good = sine(1.2, 30, 25)
    bad = sine(2.5, 30, 5, 1.0) * 5
    wave = np.concatenate([good, bad])
    assert rates.summed_rate(wave, 30, PULSE, seconds=10) == pytest.approx(72, abs=1)
    assert rates.summed_rate(good, 30, PULSE, seconds=60) == pytest.approx(72, abs=0.3)  # shorter than a window


def test_detrending_is_its_formula():
    wave = np.random.default_rng(0).normal(size=40).cumsum()
    second = np.diff(np.eye(40), 2, axis=0)
    trend = np.linalg.solve(np.eye(40) + 100**2 * second.T @ second, wave)
    np.testing.assert_allclose(rates.detrend(wave[None])[0], wave - trend, atol=1e-8)
    np.testing.assert_allclose(rates.detrend(np.arange(50.0)[None]), 0, atol=1e-6)


def test_band_pass_is_scipys():
    wave = np.random.default_rng(0).normal(size=(2, 300))
    b, a = signal.butter(2, [0.66, 3.0], "bandpass", fs=30)
    expected = signal.filtfilt(b, a, wave, padlen=15)
    np.testing.assert_allclose(rates.band_pass(wave, 30, (0.66, 3.0)), expected, atol=1e-6)


def test_snr_of_a_sine_in_noise():
    """White noise of density n over the band beside a sine: power ratio by the area under the peak."""
    rng = np.random.default_rng(0)
    clean, noise = sine(1.3, 30, 60), rng.normal(size=1800)
    found = [
        float(rates.signal_to_noise((clean + level * noise)[None], 30, np.array([78.0]), PULSE)[0])
        for level in (0.1, 1.0)
    ]
    assert found[0] - found[1] == pytest.approx(20, abs=1)
    assert rates.signal_to_noise(clean[None], 30, np.array([78.0]), PULSE) > 40
    assert rates.signal_to_noise(clean[None], 30, np.array([130.0]), PULSE) < -20


def test_out_of_band_share():
    both = sine(1.5, 30, 20) + sine(6.0, 30, 20)
    assert float(rates.out_of_band(both, 30, PULSE)) == pytest.approx(0.5, abs=0.02)


def test_macc_finds_shift_and_sign():
    wave = np.random.default_rng(0).normal(size=(2, 200))
    shifted = -3 * np.roll(wave, 17, axis=1) + 2
    np.testing.assert_allclose(rates.max_cross_correlation(shifted, wave), 1, atol=1e-9)
    x, y = np.random.default_rng(1).normal(size=(2, 60))
    expected = max(abs(np.corrcoef(np.roll(x, k), y)[0, 1]) for k in range(60))
    assert float(rates.max_cross_correlation(x, y)) == pytest.approx(expected)


def test_fused_rate_follows_the_sharper_camera():
    rng = np.random.default_rng(0)
    sharp, noise = sine(1.5, 30, 10)[None], rng.normal(size=(1, 300))
    assert rates.fused_rates([sharp, noise], 30, PULSE) == pytest.approx(90, abs=1)


def test_errors_are_those_of_numpy_and_scipy():
    rng = np.random.default_rng(0)
    reference = rng.uniform(50, 110, 40)
    estimated = reference + rng.normal(1, 4, 40)
    found = rate_metrics(estimated, reference)
    error = estimated - reference
    expected = {
        "mae": np.mean(np.abs(error)),
        "rmse": math.sqrt(np.mean(error**2)),
        "me": error.mean(),
        "sd": np.std(error),
        "mape": 100 * np.mean(np.abs(error) / reference),
        "r": stats.pearsonr(estimated, reference)[0],
        "pte": np.mean(np.abs(error) < 5),
        "loa": 1.96 * np.std(error),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["rmse"] >= found["mae"]


def test_icc_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 12)) + rng.normal(size=12)
    cases = np.stack([x, y], axis=1)
    between = 2 * ((cases.mean(1) - cases.mean()) ** 2).sum() / 11
    within = ((cases - cases.mean(1, keepdims=True)) ** 2).sum() / 12
    f = stats.f_oneway(*cases).statistic
    assert f == pytest.approx(between / within)
    assert rate_metrics(x, y)["icc"] == pytest.approx((f - 1) / (f + 1))
    assert rate_metrics(x, x)["icc"] == pytest.approx(1)


def test_standard_error_counts_people_not_windows():
    """Four copies of each person's window say nothing new."""
    rng = np.random.default_rng(0)
    errors = rng.normal(size=30)
    names = [f"p{k}" for k in range(30)]
    once = standard_error(errors, names)
    assert standard_error(np.tile(errors, 4), names * 4) == pytest.approx(once)
    assert once == pytest.approx(np.abs(errors).std() / math.sqrt(30), rel=0.1)
