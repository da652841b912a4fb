"""A trained run on videos and on other data: prediction, measurement, transfer, calibration of a new camera."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import runner
from datasets.faces.frontend import FrontEnd, build_map
from datasets.faces.video import open_frames
from methods.calibrationphys.predictor import measure, module_predictor
from tests.methods.calibrationphys.test_module import RUN

pytest.importorskip("av")
pytest.importorskip("cv2")

BOX = [51, 19, 58, 62]  # of the rendered faces


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder of a run that was trained for a moment."""
    from runner.config.address import Run
    from runner.main import execute

    outputs = tmp_path_factory.mktemp("outputs")
    run = Run.compose(["method=calibrationphys", *RUN, f"paths.outputs={outputs}"])
    execute(run)
    return run.folder


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Path:
    """Folder of six rendered sessions of 5 s, made by the script."""
    from scripts.render_faces import main

    folder = tmp_path_factory.mktemp("drawn")
    main([str(folder), "--sessions", "6", "--seconds", "5"])
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_videos_are_predicted_without_the_data_of_the_run(trained, sessions, tmp_path, monkeypatch, caplog):
    from datasets.faces.synthetic_data import SyntheticFaces
    from runner.predict import predict

    monkeypatch.setattr(SyntheticFaces, "read", lambda *_: pytest.fail("the data was read"))
    broken = tmp_path / "cam_phone.mp4"
    broken.write_text("no video")
    given = f"{sessions}/session00[01]/cam_phone.mp4,{broken}"
    options = [f"box={BOX}", "window=4"]
    with caplog.at_level(logging.INFO):
        written = predict(runner.load(trained), given, tmp_path, "", options)
    names = [path.name for path in written]
    assert len(set(names)) == 6
    assert {"session000_cam_phone_rates.csv", "session001_cam_phone_waves.csv"} <= set(names)
    assert "camera phone is measured by the network of camera phone" in caplog.text
    assert "left out: " in caplog.text
    assert str(broken) in caplog.text


def test_a_run_whose_videos_all_fail_is_a_mistake(trained, tmp_path):
    from runner.errors import UserError
    from runner.predict import predict

    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match="cannot be read as a video"):
        predict(runner.load(trained), str(tmp_path / "a.mp4"), tmp_path, "", [f"box={BOX}"])


def test_each_video_is_measured_by_the_network_of_its_camera(trained, sessions, tmp_path, caplog, capsys):
    from scripts.measure_video import main

    videos = [sessions / "session000" / f"cam_{camera}.mp4" for camera in ("phone", "webcam")]
    options = ["--grid", "4", "--window", "4", "--respiration", "none", "--box", *map(str, BOX), "--out"]
    with caplog.at_level(logging.INFO):
        main([*map(str, videos), "--run", str(trained), *options, str(tmp_path / "out")])
    assert "phone is measured by the network of camera phone" in caplog.text
    found = rows(tmp_path / "out" / "rates.csv")
    module = runner.load(trained).module()
    for video, camera in zip(videos, ("phone", "webcam"), strict=True):
        built = build_map(open_frames(video), None, FrontEnd(grid=4, box=tuple(BOX), flow=False))
        alone = measure({"other": built}, module_predictor(module, camera), 4.0)
        first = next(row for row in found if row["camera"] == camera)
        assert float(first["rate_per_minute"]) == pytest.approx(alone.rates["other"][0], abs=6)
    with pytest.raises(SystemExit):
        main([str(videos[0]), "--run", str(trained), "--camera", "kinect", *options, str(tmp_path / "out")])
    assert "the run has webcam, phone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [("--grid", "argument --grid: must be at least 1, got 0"), ("--out", "is a file, not a folder")],
)
def test_wrong_options_end_in_one_message(option, message, sessions, tmp_path, capsys):
    from scripts.measure_video import main

    (tmp_path / "file").write_text("")
    value = "0" if option == "--grid" else str(tmp_path / "file")
    with pytest.raises(SystemExit) as ended:
        main([str(sessions / "session000" / "cam_phone.mp4"), option, value, "--box", *map(str, BOX)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_networks_are_tested_on_other_data(trained, call: Callable, tmp_path):
    checkpoint = runner.load(trained).checkpoint
    options = [option for option in RUN if "schedule" not in option and "method.lr" not in option]
    options += ["dataset.data_seed=1", "~needs.checkpoint", f"method.checkpoint={checkpoint}"]
    code, printed = call("method=calibrationphys/transfer", *options, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    (folder,) = tmp_path.glob("*/*/*/result.json")
    assert "test/mae_phone" in runner.load(folder.parent).result["metrics"]
    code, printed = call("method=calibrationphys/transfer", *options, "dataset.fs=10", f"paths.outputs={tmp_path}")
    assert code == 2
    assert "were trained with fs 15.0, the data has 10.0" in printed


def test_a_new_camera_is_calibrated_from_a_folder(trained, sessions, call: Callable, tmp_path):
    checkpoint = runner.load(trained).checkpoint
    maps = tmp_path / "maps"
    arguments = [
        "method=calibrationphys/calibrate",
        *("logger=csv", "schedule.max_epochs=1", "model.width=8", "method.lr=0.003", "method.speed=[0.9,1.1]"),
        *(f"dataset.folder={sessions}", f"dataset.maps={maps}", "dataset.grid=4", f"dataset.box={BOX}"),
        *("dataset.fs=15", "dataset.clip_length=60", "dataset.eval_seconds=4", "dataset.margin=1.1"),
        *("dataset.steps_per_epoch=2", "dataset.split={train:0.34,val:0.33,test:0.33}"),
        *("method.pretrained_camera=webcam", f"method.pretrained={checkpoint}", "~needs.pretrained"),
    ]
    code, printed = call(*arguments, f"paths.outputs={tmp_path}/outputs")
    assert code == 0, printed
    (folder,) = tmp_path.glob("outputs/*/*/*/result.json")
    module, source = runner.load(folder.parent).module(), runner.load(trained).module()
    for name, value in module.network.of("webcam").state_dict().items():
        np.testing.assert_array_equal(value, source.network.of("webcam").state_dict()[name])
    assert not np.allclose(module.network.of("phone").head.weight.detach(), 0)
