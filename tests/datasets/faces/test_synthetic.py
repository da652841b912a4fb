"""Generated sessions: heart, breath, reflection, noise, light."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.faces import synthetic
from datasets.faces.clips import align, velocity
from datasets.faces.physiology import coloured_noise, draw_physiology, fourier_pulse, gaussian_pulse, standardised
from datasets.faces.scene import PROFILES, SceneSettings, draw_scene, draw_view
from datasets.faces.synthetic import camera_map, synthetic_session, truth_of
from datasets.faces.synthetic_data import SyntheticFaces
from methods.calibrationphys.predictor import formula_predictor, measure
from methods.calibrationphys.rates import READOUTS, peak_rates


def peak(wave: np.ndarray, fs: float, low: float, high: float) -> float:
    """Frequency of the strongest bin of a plain FFT, with a window, in Hz."""
    wave = (wave - wave.mean()) * np.hanning(len(wave))
    frequencies, power = np.fft.rfftfreq(1 << 15, 1 / fs), np.abs(np.fft.rfft(wave, 1 << 15))
    keep = (frequencies >= low) & (frequencies <= high)
    return float(frequencies[keep][power[keep].argmax()])


def test_rates_of_heart_and_breath_stay_in_their_ranges():
    for seed in range(5):
        p = draw_physiology(np.random.default_rng(seed), 30.0)
        assert 40 < p.heart_rate.min() < p.heart_rate.max() < 180
        assert 6 < p.resp_rate.min() < p.resp_rate.max() < 30
        assert p.resp_rate.mean() < p.heart_rate.mean() / 2
        np.testing.assert_allclose([p.resp.mean(), p.resp.std()], [0, 1], atol=1e-9)
        beats = np.flatnonzero(np.diff(np.sign(np.diff(p.pulse))) < 0)  # maxima: at most two a beat
        assert len(beats) >= 0.9 * p.heart_rate.mean() / 60 * (p.t[-1] - p.t[0])


def test_heart_rate_rises_with_breath_on_average():
    """Respiratory sinus arrhythmia is a frequency modulation by breathing."""
    correlation = []
    for seed in range(10):
        p = draw_physiology(np.random.default_rng(seed), 60.0)
        correlation.append(np.corrcoef(p.heart_rate, p.resp)[0, 1])
    assert np.mean(correlation) > 0.4


@pytest.mark.parametrize("shape", [gaussian_pulse(0.35), fourier_pulse])
def test_pulse_shapes_are_periodic_and_standardised(shape):
    phase = np.arange(4096) / 4096
    wave = standardised(shape)(phase)
    np.testing.assert_allclose([wave.mean(), wave.std()], [0, 1], atol=1e-3)
    np.testing.assert_allclose(standardised(shape)(phase + 3), wave, atol=1e-6)


def test_coloured_noise_has_its_band_and_slope():
    noise = coloured_noise(np.random.default_rng(0), 240 * 600, 240.0, (0.1, 2.0), beta=2.0)
    frequencies, power = np.fft.rfftfreq(len(noise), 1 / 240), np.abs(np.fft.rfft(noise)) ** 2
    inside = (frequencies > 0.1) & (frequencies < 2.0)
    assert power[inside].sum() / power.sum() > 0.99
    slope, _ = np.polyfit(np.log(frequencies[inside]), np.log(power[inside]), 1)
    assert slope == pytest.approx(-2, abs=0.2)
    assert noise.std() == pytest.approx(1, abs=0.05)


def noiseless(seed: int, **settings) -> tuple:
    scene = draw_scene(np.random.default_rng(seed), SceneSettings(grid=4, level=0, **settings))
    rng = np.random.default_rng(seed + 100)
    view = draw_view(rng, scene, PROFILES["webcam"])
    return scene, view, camera_map(rng, scene, view, noise=False)


def test_noiseless_green_has_the_rate_of_the_heart_and_a_minus_sign():
    for seed in range(3):
        scene, view, built = noiseless(seed)
        trace = built.rgb.mean(axis=1)[:, 1].astype(float)
        heart = scene.physiology.heart_rate / 60
        assert peak(trace, 30.0, 0.66, 3) == pytest.approx(heart.mean(), abs=0.05 + heart.std())
        pulse = scene.at(scene.physiology.pulse, view.true_t)
        slow = np.convolve(np.pad(trace, 45, mode="edge"), np.ones(91) / 91, "valid")
        assert np.corrcoef(trace - slow, pulse)[0, 1] < -0.5  # the baseline follows breathing too


def test_amplitude_of_the_pulse_is_the_one_asked_for():
    scene, _, built = noiseless(0, amplitude=0.01)
    relative = built.rgb[:, :, 1] / built.rgb[:, :, 1].mean(axis=0)
    assert 0.003 < np.median(relative.std(axis=0)) < 0.012  # patches vary, specular light dilutes
    assert scene.amplitude == 0.01


def test_without_a_pulse_nothing_tells_the_heart_rate():
    """With amplitude 0 the colour traces of two different hearts are the same: no other way leads to the rate."""
    maps = []
    for heart in ((55.0, 56.0), (100.0, 101.0)):
        session = synthetic_session((0, 0, 7), SceneSettings(grid=4, amplitude=0.0, heart_range=heart))
        maps.append(session.cameras["webcam"])
    np.testing.assert_allclose(maps[0].rgb, maps[1].rgb, rtol=1e-6)
    assert (
        len({int(synthetic_session((0, 0, k), SceneSettings(grid=4)).truth.rates["hr"].mean()) for k in range(4)}) > 1
    )


def test_cameras_share_the_truth_but_not_the_noise():
    scene = draw_scene(np.random.default_rng(0), SceneSettings(grid=4, level=0, amplitude=0.0, dropped=0, fps=30.0))
    noise = []
    for seed, name in enumerate(("webcam", "phone"), 1):
        rng = np.random.default_rng(seed)
        view = draw_view(rng, scene, PROFILES[name])
        built = camera_map(rng, scene, view)
        noise.append(np.diff(built.rgb[:, :, 1], axis=0).ravel())
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.05
    assert peak(truth_of(scene).waves["ppg"], 120.0, 0.66, 3) == pytest.approx(
        scene.physiology.heart_rate.mean() / 60, abs=0.1
    )


def test_respiration_is_in_the_flow_at_rest_and_drowns_in_motion():
    errors = {}
    for level in (0.0, 1.0):
        errors[level] = []
        for k in range(4):
            session = synthetic_session((1, 0, k), SceneSettings(seconds=61, grid=4, level=level))
            speed, at = velocity(session.cameras["webcam"])
            clock = np.arange(at[0], at[-1], 1 / 15)
            moved = np.cumsum(np.interp(clock, at, speed.mean(axis=1)))
            truth = np.interp(clock, session.truth.t, session.truth.waves["resp"])
            errors[level].append(abs(peak(moved, 15.0, 0.1, 0.5) - peak(truth, 15.0, 0.1, 0.5)) * 60)
    assert np.mean(errors[0.0]) < 0.1
    assert np.mean(errors[1.0]) > np.mean(errors[0.0])


def test_pos_finds_the_rate_of_a_still_face():
    settings = SceneSettings(grid=4, level=0, amplitude=0.01)
    errors = []
    for k in range(5):
        session = synthetic_session((2, 0, k), settings)
        found = measure(session.cameras, formula_predictor("pos"), 30.0, step=30)
        truth = align(session, "pulse", "rgb", 30.0).wave[None, :900]
        errors += [abs(rates[0] - peak_rates(truth, 30.0, READOUTS["pulse"])[0]) for rates in found.rates.values()]
    assert np.mean(errors) < 0.5


def test_a_record_is_the_heart_of_the_test_sessions(tmp_path):
    t = np.arange(0, 120, 0.008)
    rows = np.stack([t, np.sin(2 * np.pi * 0.3 * t), np.sin(2 * np.pi * 1.4 * t)], axis=1)
    header = "Time [s], RESP, PLETH"
    np.savetxt(tmp_path / "record.csv", rows, "%.5f", ",", header=header, comments="")
    scene = {"grid": 4, "level": 0, "amplitude": 0.02}
    sizes = {"train": 1, "val": 1, "test": 2}
    options = {"sessions": sizes, "scene": scene, "root": tmp_path, "cameras": ["webcam"]}
    data = SyntheticFaces(test_record="record.csv", **options)
    first, second = data.read("test")
    for session in (first, second):
        trace = session.cameras["webcam"].rgb.mean(axis=1)[:, 1]
        assert peak(trace, 30.0, 0.66, 3) == pytest.approx(1.4, abs=0.03)
        assert np.isnan(session.truth.rates["hr"]).all()
    assert not np.allclose(first.truth.waves["ppg"], second.truth.waves["ppg"])
    plain = SyntheticFaces(**options)
    np.testing.assert_array_equal(
        data.read("train")[0].cameras["webcam"].rgb, plain.read("train")[0].cameras["webcam"].rgb
    )
    with pytest.raises(ValueError, match="the record has 120 s, a session needs 204 s"):
        SyntheticFaces(test_record="record.csv", **options | {"scene": scene | {"seconds": 200.0}}).read("test")
    (tmp_path / "record.csv").write_text("t,ppg\n0,1\n")
    with pytest.raises(ValueError, match="lacks the column resp"):
        SyntheticFaces(test_record="record.csv", **options)


def test_sessions_follow_their_key_alone():
    a, b, c = (synthetic_session(key, SceneSettings(grid=4)) for key in ((0, 1, 2), (0, 1, 2), (0, 1, 3)))
    np.testing.assert_array_equal(a.cameras["phone"].rgb, b.cameras["phone"].rgb)
    assert a.cameras["phone"].rgb.shape != c.cameras["phone"].rgb.shape or not np.array_equal(
        a.cameras["phone"].rgb, c.cameras["phone"].rgb
    )


def test_mains_light_of_120_hz_shows_at_012_hz_at_2997_frames_a_second():
    settings = SceneSettings(
        seconds=60, grid=4, level=0, amplitude=0.0, mains=60, mains_depth=0.01, fps=29.97, jitter=0, dropped=0
    )
    scene = draw_scene(np.random.default_rng(0), settings)
    rng = np.random.default_rng(1)
    profile = PROFILES["phone"]
    view = draw_view(rng, scene, profile)
    trace = camera_map(rng, scene, view, noise=False).rgb[:, 0, 1].astype(float)
    slow_exposure = 0.003 * profile.exposure  # its own slow sine, ten times weaker
    assert slow_exposure < 0.002
    assert peak(trace, 29.97, 0.05, 3) == pytest.approx(0.12, abs=0.01)


def test_flicker_is_shared_or_not():
    for shared in (True, False):
        settings = SceneSettings(grid=4, level=0, amplitude=0.0, flicker=0.02, flicker_shared=shared)
        session = synthetic_session((0, 0, 0), settings)
        aligned = align(session, "pulse", "rgb", 30.0)
        rates = [peak(values[-1].mean(axis=0), 30.0, 0.66, 3) for values in aligned.maps.values()]
        assert (abs(rates[0] - rates[1]) < 0.02) == shared


def test_darker_skin_gives_a_weaker_signal_and_less_light():
    light, dark = (synthetic_session((0, 0, 1), SceneSettings(grid=4, dark_skin=d)) for d in (False, True))
    assert dark.cameras["webcam"].rgb.mean() < 0.7 * light.cameras["webcam"].rgb.mean()
    assert dark.meta["amplitude"] == pytest.approx(light.meta["amplitude"] / 2.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0},
        {"level": -1},
        {"level": "hard"},
        {"jitter": -0.1},
        {"dropped": 1.5},
        {"fps": 10.0},
        {"mains": 40},
        {"heart_range": [90, 50]},
        {"heart_range": [90]},
        {"resp_range": ["a", 50]},
        {"resp_range": 12.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"dataset\.scene\.{next(iter(wrong))}"):
        SyntheticFaces(scene=wrong)


def test_levels_of_the_test_sessions_are_not_negative():
    with pytest.raises(ValueError, match=r"dataset\.test_levels\[1\] must not be negative, got -1"):
        SyntheticFaces(test_levels=[0, -1])


def test_codec_noise_has_its_size_and_memory():
    noise = synthetic.codec_noise(np.random.default_rng(0), (20000, 2, 3), 0.25)
    assert 0.2 < noise[..., 2].std() < 0.5
    assert noise[..., 1].std() < noise[..., 2].std()
    a, b = noise[:-1, 0, 0], noise[1:, 0, 0]
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.6, abs=0.15)
