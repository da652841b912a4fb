"""Corpora in files made in their layouts; building their maps, and going on."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from datasets.download import CorruptData
from datasets.faces.build import build_corpus, recordings_of
from datasets.faces.frontend import FrontEnd
from datasets.faces.layouts import LAYOUTS, spread_repeats
from datasets.faces.session import load_session
from datasets.faces.sync import Offset

SETTINGS = FrontEnd(grid=4, box=(24, 16, 64, 64), flow=False)


def wave(count: int, fs: float) -> np.ndarray:
    return np.sin(2 * np.pi * 1.2 * np.arange(count) / fs)


def make_ubfc_rppg(root, write, images):
    for k in (1, 10, 2):
        write(root / f"subject{k}" / "vid.avi", images)
        t = np.arange(30) / 30
        lines = [wave(30, 30), np.full(30, 72.0), t]
        (root / f"subject{k}" / "ground_truth.txt").write_text(
            "\n".join(" ".join(f"{v:.7e}" for v in line) for line in lines)
        )


def make_pure(root, write, images):
    for name in ("01-01", "01-02", "02-01"):
        folder = root / name / name
        folder.mkdir(parents=True)
        stamps = [1392643993642815000 + round(k / 30 * 1e9) for k in range(len(images))]
        for stamp, image in zip(stamps, images, strict=True):
            Image.fromarray(image).save(folder / f"Image{stamp}.png")
        package = [
            {"Timestamp": stamps[0] + round(k / 60 * 1e9), "Value": {"waveform": round(50 * v) + 60, "pulseRate": 72}}
            for k, v in enumerate(wave(60, 60))
        ]
        content = {"/FullPackage": package, "/Image": [{"Timestamp": stamp} for stamp in stamps]}
        (root / name / f"{name}.json").write_text(json.dumps(content))


def make_cohface(root, write, images):
    h5py = pytest.importorskip("h5py")
    for subject, part in ((1, 0), (1, 3), (2, 0)):
        write(root / str(subject) / str(part) / "data.avi", images)
        with h5py.File(root / str(subject) / str(part) / "data.hdf5", "w") as file:
            file["pulse"], file["respiration"] = wave(256, 256), wave(256, 512)
            file["time"] = np.arange(256) / 256


def make_mcd_rppg(root, write, images):
    for name in ("ppg_sync", "meta"):
        (root / name).mkdir(parents=True)
    for subject in ("17", "204"):
        for camera in ("FullHDwebcam", "IriunWebcam"):
            name = f"{subject}_{camera}_before"
            write(root / "video" / f"{name}.avi", images)
            rows = [f"{round(100 * v) + 500} 0.004" for v in wave(30, 30)]
            (root / "ppg_sync" / f"{name}.txt").write_text("\n".join(rows))
            if subject == "17":  # the other one has the clock of the video
                start = datetime(2024, 5, 1, 23, 59, 59, 600_000)
                stamps = [f"{k + 1}  {start + timedelta(seconds=k / 30)}" for k in range(41)]
                (root / "meta" / f"{name}.txt").write_text("\n".join(stamps))


def make_vipl_hr(root, write, images):
    for person in (1, 2):
        for source in (1, 2):
            folder = root / "data" / f"p{person}" / "v1" / f"source{source}"
            write(folder / "video.avi", images)
            (folder / "wave.csv").write_text("Wave\n" + "\n".join(f"{50 * v:.0f}" for v in wave(60, 60)))
            (folder / "gt_HR.csv").write_text("HR\n72\n73\n")
            (folder / "time.txt").write_text("\n".join(f"{1000 * k / 30:.0f}" for k in range(30)))


def make_ubfc_phys(root, write, images):
    for k in (1, 2):
        for task in (1, 3):
            write(root / f"s{k}" / f"vid_s{k}_T{task}.avi", images)
            (root / f"s{k}" / f"bvp_s{k}_T{task}.csv").write_text("\n".join(f"{v:.4f}" for v in wave(64, 64)))


def make_ibvp(root, write, images):
    for name in ("p01_a", "p02_b"):
        folder = root / name
        (folder / f"{name}_rgb").mkdir(parents=True)
        (folder / f"{name}_t").mkdir()
        for k, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{name}_rgb" / f"{k:05d}.bmp")
            kelvin = np.full((512, 640), 309.15) / 0.04
            kelvin.astype(np.uint16).tofile(folder / f"{name}_t" / f"{k:05d}.raw")
        rows = "\n".join(f"{v:.4f},1,1,1" for v in wave(64, 64))
        (folder / f"{name}_bvp.csv").write_text("bvp,a,b,sq\n" + rows)


def make_own(root, write, images):
    for k in range(3):
        for camera in ("webcam", "phone"):
            write(root / f"session{k}" / f"cam_{camera}.mp4", images)
        rows = "\n".join(f"{i / 60:.4f},{v:.4f}" for i, v in enumerate(wave(60, 60)))
        (root / f"session{k}" / "truth.csv").write_text("t,ppg\n" + rows)
        (root / f"session{k}" / "subject.txt").write_text("anna" if k < 2 else "ben")


def make_vitallens(root, write, images):
    for k in (1, 2):
        write(root / f"sample_video_{k}.mp4", images)
        rows = "\n".join(f"{v:.4f},{v:.4f}" for v in wave(30, 30))
        (root / f"sample_vitals_{k}.csv").write_text("ppg,resp\n" + rows)


MADE = {
    "ubfc_rppg": (make_ubfc_rppg, 3, 3, 1),
    "pure": (make_pure, 3, 2, 1),
    "cohface": (make_cohface, 3, 2, 1),
    "mcd_rppg": (make_mcd_rppg, 2, 2, 2),
    "vipl_hr": (make_vipl_hr, 2, 2, 2),
    "ubfc_phys": (make_ubfc_phys, 4, 2, 1),
    "ibvp": (make_ibvp, 2, 2, 2),
    "vitallens": (make_vitallens, 2, 2, 2),
    "own": (make_own, 3, 2, 2),
}


@pytest.mark.parametrize("layout", MADE)
def test_corpora_are_read_in_their_layouts(layout, tmp_path, write_frames, moving):
    make, sessions, people, cameras = MADE[layout]
    images = moving(30)
    make(tmp_path / "raw", lambda path, frames: write_frames(path, frames), images)
    recordings = recordings_of(layout, tmp_path / "raw")
    assert len({r.session for r in recordings}) == sessions
    assert len({r.subject for r in recordings}) == people
    failures = build_corpus(recordings, tmp_path / "maps", SETTINGS)
    assert not failures
    folders = sorted((tmp_path / "maps").glob("*/meta.yaml"))
    assert len(folders) == sessions
    session = load_session(folders[0].parent)
    assert len(session.cameras) == cameras
    for camera_map in session.cameras.values():
        assert camera_map.rgb.shape[0] >= 29
        assert camera_map.fps == pytest.approx(30, abs=0.5)
    reference = session.truth
    clock = np.arange(0.05, 0.9, 0.01)
    read = np.interp(clock, reference.t - reference.t[0], reference.waves["ppg"])
    assert np.corrcoef(read, np.sin(2 * np.pi * 1.2 * clock))[0, 1] > 0.99


def test_every_layout_is_tested_and_an_empty_folder_is_refused(tmp_path):
    assert set(MADE) == set(LAYOUTS)
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match=f"layout {layout}"):
            recordings_of(layout, tmp_path)


def test_damaged_references_are_refused(tmp_path, write_frames, moving):
    make_ubfc_rppg(tmp_path, lambda path, frames: write_frames(path, frames), moving(4))
    (tmp_path / "subject1" / "ground_truth.txt").write_text("1 2 3\n4 5\n1 2 3")
    recording = next(r for r in recordings_of("ubfc_rppg", tmp_path) if r.session == "subject1")
    with pytest.raises(CorruptData, match="three lines"):
        recording.truth()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("t,ppg\n0.0,1\n0.1\n", "lacks a value in row 3, column 2"),
        ("", "is empty"),
        ("t,ppg\n", "has no values"),
        ("ppg\n1\n", "no column t"),
        ("t,ppg\n0,1\n0.2,1\n0.1,1\n", "runs backwards"),
    ],
)
def test_a_damaged_reference_leaves_its_recordings_out(content, message, tmp_path, write_frames, moving):
    make_own(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(4))
    (tmp_path / "raw" / "session1" / "truth.csv").write_text(content)
    failures = build_corpus(recordings_of("own", tmp_path / "raw"), tmp_path / "maps", SETTINGS)
    assert len(failures) == 2
    assert all(message in failure and "session1" in failure for failure in failures)
    assert sorted(path.parent.name for path in (tmp_path / "maps").glob("*/meta.yaml")) == ["session0", "session2"]


def test_a_missing_reference_is_said_and_the_recording_used(tmp_path, write_frames, moving, caplog):
    make_vipl_hr(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(30))
    (tmp_path / "raw" / "data" / "p1" / "v1" / "source1" / "wave.csv").unlink()
    with caplog.at_level(logging.WARNING):
        assert not build_corpus(recordings_of("vipl_hr", tmp_path / "raw"), tmp_path / "maps", SETTINGS)
    assert "source1/video.avi has no reference" in caplog.text
    assert list(load_session(tmp_path / "maps" / "p1_v1").cameras) == ["phone", "webcam"]


def test_empty_lists_of_pure_are_refused(tmp_path):
    (tmp_path / "01-01").mkdir()
    (tmp_path / "01-01" / "01-01.json").write_text('{"/Image": [], "/FullPackage": []}')
    (recording,) = recordings_of("pure", tmp_path)
    for read in (recording.times, recording.truth):
        with pytest.raises(CorruptData, match="no entries in /Image"):
            read()


def test_stamps_that_repeat_are_spread_and_none_is_lost():
    found = spread_repeats(np.array([0.0, 0.1, 0.1, 0.1, 0.4, 0.5, 0.5]))
    np.testing.assert_allclose(found, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5 + 0.5 / 6])


def test_a_camera_that_is_built_later_joins_its_session(tmp_path, write_frames, moving, monkeypatch):
    """The second build finds what the first would have found: offset, reference, and clocks."""
    make_own(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(30))
    offsets = iter([1.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr("datasets.faces.build.estimate_offset", lambda *_: Offset(next(offsets), 0.9, 20.0))
    recordings = recordings_of("own", tmp_path / "raw")[:2]
    for out, parts in (("whole", (recordings,)), ("parts", (recordings[1:], recordings))):
        for part in parts:
            build_corpus(part, tmp_path / out, SETTINGS, synchronise=True)
    whole, parts = (load_session(tmp_path / out / "session0") for out in ("whole", "parts"))
    assert whole.meta == parts.meta == {"offsets": {"webcam": 1.0}}
    assert parts.truth is not None
    assert not list((tmp_path / "parts").glob("*/truth_*.npz"))
    for camera in ("phone", "webcam"):
        np.testing.assert_allclose(whole.cameras[camera].t, parts.cameras[camera].t)
    note = tmp_path / "parts" / "session0" / "meta.yaml"
    before = note.stat().st_mtime_ns
    build_corpus(recordings, tmp_path / "parts", SETTINGS, synchronise=True)
    assert note.stat().st_mtime_ns == before


def test_a_stopped_build_goes_on_and_other_settings_are_refused(tmp_path, write_frames, moving, caplog):
    make_own(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(30))
    recordings = recordings_of("own", tmp_path / "raw")
    build_corpus(recordings[:3], tmp_path / "maps", SETTINGS)
    first = tmp_path / "maps" / "session0" / "cam_phone.npz"
    before = first.stat().st_mtime_ns
    (tmp_path / "raw" / "session2" / "cam_phone.mp4").write_text("broken")
    with caplog.at_level(logging.WARNING):
        failures = build_corpus(recordings, tmp_path / "maps", SETTINGS)
    assert first.stat().st_mtime_ns == before
    assert len(failures) == 1
    assert "session2 has 1 of 2 cameras" in caplog.text
    with pytest.raises(ValueError, match="other settings"):
        build_corpus(recordings, tmp_path / "maps", FrontEnd(grid=2, box=SETTINGS.box))


def test_a_parallel_build_gives_the_same_maps(tmp_path, write_frames, moving):
    make_own(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(30))
    recordings = recordings_of("own", tmp_path / "raw")
    build_corpus(recordings, tmp_path / "one", SETTINGS)
    build_corpus(recordings, tmp_path / "two", SETTINGS, workers=2)
    for folder in ("session0", "session2"):
        one, two = (load_session(tmp_path / which / folder) for which in ("one", "two"))
        np.testing.assert_array_equal(one.cameras["phone"].rgb, two.cameras["phone"].rgb)
