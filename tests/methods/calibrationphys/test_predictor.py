"""From maps to rates with their quality, tables and figures, and the command that measures a video."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from datasets.faces.rendering import render_session
from datasets.faces.scene import SceneSettings
from datasets.faces.session import CameraMap
from datasets.faces.synthetic import synthetic_session
from methods.calibrationphys.predictor import FORMULAS, flicker_rate, formula_predictor, measure
from methods.calibrationphys.rates import READOUTS
from methods.calibrationphys.report import plot_measurement, summary_lines, write_rates, write_waves
from runner.execution.plot_style import pyplot


@pytest.fixture(scope="module")
def session():
    settings = SceneSettings(seconds=40.0, grid=4, level=0.0, amplitude=0.01, resp_range=(15.0, 20.0))
    return synthetic_session((0, 0, 3), settings)


@pytest.mark.parametrize("name", [*FORMULAS["pulse"], "flowmean", "bw"])
def test_formulas_find_the_rate_of_a_still_face(session, name):
    predictor = formula_predictor(name)
    found = measure(session.cameras, predictor, 30.0, step=5)
    truth = session.truth.rates["hr" if predictor.signal == "pulse" else "rr"].mean()
    for camera in ("webcam", "phone"):
        tolerance = 6 if name in ("ica", "2sr", "chrom", "pbv") else 2
        assert np.median(found.rates[camera]) == pytest.approx(truth, abs=tolerance), camera


def test_quality_tells_good_windows_from_noise(session):
    good = measure(session.cameras, formula_predictor("green"), 10.0)
    rng = np.random.default_rng(0)
    noise = {name: CameraMap(rng.normal(100, 1, m.rgb.shape), m.flow, m.t) for name, m in session.cameras.items()}
    bad = measure(noise, formula_predictor("green"), 10.0)
    assert good.good("phone").mean() > 0.9
    assert bad.good("phone").mean() < 0.2
    assert good.agreement.max() < bad.agreement.max()
    assert np.median(good.ipr["phone"]) < np.median(bad.ipr["phone"])
    bad.snr["webcam"][:] = -1
    assert "no window can be trusted" in summary_lines(bad)[0]
    assert "no window can be trusted" not in summary_lines(good)[0]


def test_cameras_agree_within_five_beats_or_two_breaths(session):
    for name, limit in (("green", 5.0), ("flowmean", 2.0)):
        found = measure(session.cameras, formula_predictor(name), 30.0, step=5)
        found.snr = {camera: np.full(len(found.windows), 3.0) for camera in found.snr}
        found.agreement = np.linspace(0, 2 * limit, len(found.windows))
        np.testing.assert_array_equal(found.good("phone"), found.agreement < limit)


def test_windows_across_a_gap_are_not_good(session):
    keep = {name: (m.t < 18) | (m.t > 20) for name, m in session.cameras.items()}
    cameras = {n: CameraMap(m.rgb[keep[n]], m.flow[keep[n]], m.t[keep[n]]) for n, m in session.cameras.items()}
    found = measure(cameras, formula_predictor("green"), 10.0)
    begin = found.start + found.windows
    across = (begin < 19) & (begin + 10 > 19)
    assert not found.good("phone")[across].any()
    assert found.good("phone")[~across].mean() > 0.8


def test_a_grey_video_has_no_method_of_three_colours(session):
    phone = session.cameras["phone"]
    grey = {"nir": CameraMap(phone.rgb[..., 1:2], phone.flow, phone.t)}
    for name in ("pos", "2sr"):
        with pytest.raises(ValueError, match=f"{name} needs 3 colours, the video of nir is grey"):
            measure(grey, formula_predictor(name), 10.0)
    truth = session.truth.rates["hr"].mean()
    assert measure(grey, formula_predictor("green"), 30.0).rates["nir"][0] == pytest.approx(truth, abs=2)


def test_a_window_longer_than_the_video_is_refused(session):
    with pytest.raises(ValueError, match=r"v has 39\.\d s, less than one window of 60 s"):
        measure(session.cameras, formula_predictor("pos"), 60.0, name="v")
    with pytest.raises(ValueError, match="there is no method"):
        formula_predictor("magic")


def test_tables_hold_waves_and_windows(session, tmp_path):
    found = measure(session.cameras, formula_predictor("pos"), 10.0, step=5)
    write_waves(found, tmp_path / "pulse.csv")
    write_rates([found], tmp_path / "rates.csv")
    waves = np.genfromtxt(tmp_path / "pulse.csv", delimiter=",", names=True)
    assert waves.dtype.names == ("t", "webcam", "phone")
    np.testing.assert_allclose(np.diff(waves["t"]), 1 / 30, atol=1e-4)
    rows = list(csv.DictReader((tmp_path / "rates.csv").open()))
    assert len(rows) == 2 * len(found.windows)
    assert float(rows[0]["rate_per_minute"]) == pytest.approx(found.rates["webcam"][0], abs=1e-3)
    assert float(rows[0]["end"]) - float(rows[0]["start"]) == pytest.approx(10, abs=1e-2)
    with pyplot() as plt:
        figure = plot_measurement(found)
        assert len(figure.axes) == 3
        plt.close(figure)


def test_light_that_pulses_beside_the_face_is_noticed():
    t = np.arange(600) / 30
    light = 100 + 2 * np.sin(2 * np.pi * 1.3 * t) + np.random.default_rng(0).normal(0, 0.2, 600)
    camera = CameraMap(np.ones((600, 4, 3)), np.ones((600, 4)), t, None, np.repeat(light[:, None], 3, axis=1))
    assert flicker_rate(camera, 78.0, READOUTS["pulse"]) == pytest.approx(78, abs=1)
    assert flicker_rate(camera, 60.0, READOUTS["pulse"]) is None
    camera.background = None
    assert flicker_rate(camera, 78.0, READOUTS["pulse"]) is None


def test_a_video_is_measured_by_one_command(tmp_path, capsys):
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    from scripts.measure_video import main

    settings = SceneSettings(seconds=11.0, grid=4, level=0.0, amplitude=0.02)
    box = render_session((0, 5), settings, tmp_path / "s", ["phone"], size=(64, 80))["phone"]
    truth = np.genfromtxt(tmp_path / "s" / "truth.csv", delimiter=",", names=True)["hr"].mean()
    video = str(tmp_path / "s" / "cam_phone.mp4")
    main([video, "--pulse", "green", "--box", *map(str, box), "--out", str(tmp_path / "out")])
    rows = list(csv.DictReader((tmp_path / "out" / "rates.csv").open()))
    assert np.mean([float(row["rate_per_minute"]) for row in rows]) == pytest.approx(truth, abs=4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rates.csv", "pulse.csv", "pulse.png"}
    assert "per minute by green" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4", "--box", "0", "0", "9", "9"], "there is no video"),
        (["a.mp4", "a.mp4", "--box", "0", "0", "9", "9"], "different names"),
        (["none.mp4", "--run", "/no/such/run"], "neither a folder"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, capsys):
    from scripts.measure_video import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_real_clips_give_their_rates(runner_data: Path):
    """POS on the maps of a real face whose box was drawn by hand: 75.4 per minute by the contact sensor."""
    file = runner_data / "rppg" / "derived" / "vitallens_clip1_stmap.npz"
    if not file.exists():
        pytest.skip("rppg/derived is missing")
    stored = np.load(file)
    t = np.arange(len(stored["M"])) / float(stored["fs"])
    camera = CameraMap(stored["M"], np.zeros(stored["M"].shape[:2], np.float32), t)
    for name in ("green", "chrom", "pos", "lgi", "omit"):
        found = measure({"c": camera}, formula_predictor(name), 11.5, step=20).rates["c"][0]
        assert found == pytest.approx(75.4, abs=3), name
