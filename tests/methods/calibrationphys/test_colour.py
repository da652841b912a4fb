"""Hand-crafted waves against plain loops over the published formulas, and against an independent package."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from methods.calibrationphys import breathing, colour
from methods.calibrationphys.jade import jade
from methods.calibrationphys.rates import READOUTS, peak_rates

FS = 30.0


def traces(rate: float = 1.3, noise: float = 0.0, seed: int = 0, count: int = 300, motion: float = 0.004) -> np.ndarray:
    """Colours of a face whose pulse has a rate, with light that changes, (1, T, 3)."""
    rng = np.random.default_rng(seed)
    t = np.arange(count) / FS
    pulse = np.sin(2 * np.pi * rate * t)
    light = 1 + motion * np.sin(2 * np.pi * 0.45 * t) + motion * np.cos(2 * np.pi * 2.1 * t)
    signature = np.array([0.33, 0.77, 0.53])
    skin = np.array([130.0, 87.0, 65.0])
    rgb = skin * light[:, None] * (1 - 0.004 * pulse[:, None] * signature)
    return (rgb * (1 + noise * rng.normal(size=rgb.shape)))[None]


@pytest.mark.parametrize("name", ["chrom", "pos", "pbv", "lgi", "omit", "ica"])
def test_pulse_is_found_beside_a_stronger_change_of_light(name):
    wave = getattr(colour, name)(traces(noise=2e-4), FS)
    assert wave.shape == (1, 300)
    assert peak_rates(wave, FS, READOUTS["pulse"])[0] == pytest.approx(78, abs=3)


def test_green_is_fooled_by_light_that_pos_removes():
    rgb = traces(motion=0.02)
    assert abs(peak_rates(colour.green(rgb, FS), FS, READOUTS["pulse"])[0] - 78) > 20
    assert abs(peak_rates(colour.pos(rgb, FS), FS, READOUTS["pulse"])[0] - 78) < 3


@pytest.mark.parametrize("name", ["green", "chrom", "pos", "lgi", "omit"])
def test_waves_rise_with_blood_volume(name):
    t = np.arange(300) / FS
    wave = getattr(colour, name)(traces(motion=0.0), FS)[0]
    middle = slice(60, 240)
    assert np.corrcoef(wave[middle], np.sin(2 * np.pi * 1.3 * t)[middle])[0, 1] > 0.8


def test_pos_is_the_loop_of_the_paper():
    rgb = traces(noise=1e-3)[0]
    length = math.ceil(1.6 * FS)
    expected = np.zeros(len(rgb))
    for start in range(len(rgb) - length + 1):
        c = rgb[start : start + length]
        c = c / c.mean(axis=0)
        s = np.array([[0, 1, -1], [-2, 1, 1]]) @ c.T
        h = s[0] + s[0].std() / s[1].std() * s[1]
        expected[start : start + length] += h - h.mean()
    np.testing.assert_allclose(colour.pos_raw(rgb[None], FS)[0], -expected, atol=1e-9)


def test_chrom_is_the_loop_of_the_published_code():
    rgb = traces(noise=1e-3, count=354)[0]
    length = 48
    b, a = signal.butter(3, [0.7 / 15, 2.5 / 15], "bandpass")
    expected = np.zeros(len(rgb))
    for k in range((len(rgb) - 24) // 24):
        part = slice(24 * k, 24 * k + length)
        c = rgb[part] / rgb[part].mean(axis=0)
        x = signal.filtfilt(b, a, 3 * c[:, 0] - 2 * c[:, 1])
        y = signal.filtfilt(b, a, 1.5 * c[:, 0] + c[:, 1] - 1.5 * c[:, 2])
        expected[part] += (x - x.std() / y.std() * y) * signal.windows.hann(length)
    np.testing.assert_allclose(colour.chrom(rgb[None], FS)[0], expected, atol=1e-7)


def test_chrom_works_at_few_frames_a_second_and_refuses_too_short_input():
    assert np.isfinite(colour.chrom(traces(count=150), 15.0)).all()
    with pytest.raises(ValueError, match="at least 48 frames"):
        colour.chrom(traces(count=40), FS)


def test_lgi_and_omit_project_a_direction_out():
    rgb = traces(noise=1e-3)[0]
    left = np.linalg.svd(rgb.T, full_matrices=False)[0][:, :1]
    expected = ((np.eye(3) - left @ left.T) @ rgb.T)[1]
    np.testing.assert_allclose(colour.lgi(rgb[None], FS)[0], -expected, atol=1e-9)
    first = rgb[:1].T / np.linalg.norm(rgb[0])  # Gram-Schmidt begins with the first frame
    expected = ((np.eye(3) - first @ first.T) @ rgb.T)[1]
    np.testing.assert_allclose(colour.omit(rgb[None], FS)[0], -expected, atol=1e-9)


def test_pbv_solves_its_equation():
    rgb = traces(noise=1e-3)[0]
    c = (rgb / rgb.mean(axis=0)).T
    signature = c.std(axis=1) / np.sqrt(c.var(axis=1).sum())
    weights = np.linalg.solve(c @ c.T, signature)
    expected = -(c.T @ weights) / (signature @ weights)
    np.testing.assert_allclose(colour.pbv(rgb[None], FS)[0], expected, rtol=1e-4)


def test_2sr_is_the_loop_of_the_paper():
    rng = np.random.default_rng(0)
    rgb = traces(noise=0)[0][:90]
    pixels = rgb[:, None] * rng.uniform(0.7, 1.2, (1, 200, 1)) * (1 + 0.02 * rng.normal(size=(90, 200, 3)))
    moments = np.einsum("tnc,tnd->tcd", pixels, pixels) / 200
    values, vectors = [], []
    for c in moments:
        v, u = np.linalg.eigh(c)
        values.append(v[::-1])
        vectors.append(u[:, ::-1] * np.sign(u[:, ::-1].sum(axis=0)))
    expected, length = np.zeros(90), 30
    for start in range(61):
        rows = []
        for t in range(start, start + length):
            row = np.zeros(3)
            for k in (1, 2):
                scale = math.sqrt(values[t][0] / values[start][k])
                row += scale * (vectors[t][:, 0] @ vectors[start][:, k]) * vectors[start][:, k]
            rows.append(row)
        x, y = np.array(rows)[:, 0], np.array(rows)[:, 1]
        p = x - x.std() / y.std() * y
        expected[start : start + length] += p - p.mean()
    np.testing.assert_allclose(colour.spatial_subspace_rotation(moments[None], FS)[0], expected, rtol=1e-6, atol=1e-9)


def test_jade_separates_mixed_sources():
    rng = np.random.default_rng(0)
    t = np.arange(3000) / 100
    sources = np.stack([np.sin(2 * np.pi * 1.3 * t), signal.square(2 * np.pi * 0.7 * t), rng.laplace(size=3000)])
    found = jade(np.array([[1, 0.6, 0.3], [0.4, 1, 0.5], [0.7, 0.2, 1]]) @ sources)
    match = np.abs(np.corrcoef(np.concatenate([found, sources]))[:3, 3:])
    assert (match.max(axis=0) > 0.98).all()
    assert sorted(match.argmax(axis=0)) == [0, 1, 2]


def foreign(name: str):
    """A formula of the package vitallens, loaded from its file: the package itself needs a network service's client."""
    pytest.importorskip("prpy", reason="pip install --no-deps vitallens prpy")
    spec = importlib.util.find_spec("vitallens")
    if spec is None:
        pytest.skip("vitallens is not installed")
    file = Path(next(iter(spec.submodule_search_locations))) / "methods" / f"{name}.py"
    source = file.read_text()
    body = source[source.index("  def algorithm(") :]
    space: dict = {}
    head = (
        "import logging\nimport numpy as np\nfrom prpy.constants import SECONDS_PER_MINUTE\n"
        "from prpy.numpy.core import div0\nfrom prpy.numpy.filters import butter_bandpass\n"
        "from prpy.numpy.stride_tricks import window_view, reduce_window_view\nclass Foreign:\n"
        "  est_window_length, est_window_overlap = 48, 47\n"
    )
    exec(compile(head + body, str(file), "exec"), space)
    return space["Foreign"]().algorithm


def test_pos_agrees_with_vitallens():
    """Their windows begin before the first and end after the last sample, and divide by the number of windows."""
    rgb = traces(noise=1e-3)[0]
    theirs, ours = foreign("pos")(rgb, FS), colour.pos_raw(rgb[None], FS)[0]
    middle = slice(60, 240)
    assert np.corrcoef(theirs[middle], ours[middle])[0, 1] > 0.98


def test_chrom_agrees_with_vitallens():
    """They filter from 40 to 240 beats/min by the fifth order, with windows at every sample, and invert it."""
    rgb = traces(noise=3e-4)[0]
    theirs, middle = foreign("chrom")(rgb, FS), slice(60, 240)
    ours = colour.chrom(rgb[None], FS, hop=1, band=(40 / 60, 4.0), order=5)[0]
    assert np.corrcoef(-theirs[middle], ours[middle])[0, 1] > 0.999999


def test_beats_and_modulations_follow_breathing():
    t = np.arange(1800) / FS
    breath = np.sin(2 * np.pi * 0.25 * t)
    phase = 2 * np.pi * np.cumsum(1.2 * (1 + 0.08 * breath)) / FS
    pulse = (1 + 0.4 * breath) * np.sin(phase)
    rgb = np.array([130.0, 87, 65]) * (1 - 0.004 * pulse[:, None] * np.array([0.33, 0.77, 0.53]))
    rgb = rgb * (1 - 0.002 * breath[:, None])
    for formula in (breathing.baseline_wander, breathing.amplitude_modulation, breathing.frequency_modulation):
        wave = formula(rgb[None], FS)
        assert peak_rates(wave, FS, READOUTS["resp"])[0] == pytest.approx(15, abs=1), formula.__name__
    beats = breathing.beats(np.sin(2 * np.pi * 1.25 * t), FS)
    np.testing.assert_allclose(np.diff(beats) / FS, 0.8, atol=0.01)


def test_flow_is_integrated():
    t = np.arange(600) / 15
    speed = np.cos(2 * np.pi * 0.3 * t)[None, :, None] * np.ones((1, 1, 4))
    assert peak_rates(breathing.flow_mean(speed, 15.0), 15.0, READOUTS["resp"])[0] == pytest.approx(18, abs=0.3)
