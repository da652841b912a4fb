"""Corpora in files made in their layouts; clips on a common clock; splits by person; building and going on."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from datasets.download import CorruptData, MissingData
from datasets.faces.build import build_corpus, recordings_of
from datasets.faces.clips import align, change_rate, interpolate, velocity
from datasets.faces.datamodule import ClipLoader, WindowLoader, check_subjects
from datasets.faces.frontend import FrontEnd
from datasets.faces.layouts import LAYOUTS, spread_repeats
from datasets.faces.recordings import FaceRecordings, split_by_person
from datasets.faces.scene import SceneSettings
from datasets.faces.session import CameraMap, Session, Truth, check_map, load_session, save_session
from datasets.faces.sync import Offset
from datasets.faces.synthetic import synthetic_session

SETTINGS = FrontEnd(grid=4, box=(24, 16, 64, 64), flow=False)


def wave(count: int, fs: float) -> np.ndarray:
    return np.sin(2 * np.pi * 1.2 * np.arange(count) / fs)


# ---- layouts ----


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


# ---- sessions and clips ----


def a_map(count: int = 300, fps: float = 30.0, start: float = 0.0, patches: int = 4) -> CameraMap:
    t = start + np.arange(count) / fps
    rgb = 100 + np.sin(2 * np.pi * t)[:, None, None] * np.ones((1, patches, 3))
    return CameraMap(rgb.astype(np.float32), np.ones((count, patches), np.float32), t)


def test_sessions_survive_the_disk(tmp_path):
    session = synthetic_session((0, 0, 1), SceneSettings(grid=4, seconds=5))
    save_session(session, tmp_path / "s")
    read = load_session(tmp_path / "s")
    assert (read.name, read.subject, read.meta) == (session.name, session.subject, session.meta)
    np.testing.assert_allclose(read.cameras["phone"].rgb, session.cameras["phone"].rgb)
    np.testing.assert_array_equal(read.cameras["phone"].t, session.cameras["phone"].t)
    np.testing.assert_allclose(read.truth.waves["resp"], session.truth.waves["resp"])
    assert list(load_session(tmp_path / "s", ["phone"]).cameras) == ["phone"]
    (tmp_path / "s" / "cam_phone.npz").write_bytes(b"broken")
    with pytest.raises(CorruptData, match="cam_phone"):
        load_session(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": np.array([0.0, 0.1, 0.05, 0.2])}, "runs backwards"),
        ({"t": np.arange(4) / 10}, "frames a second"),
        ({"rgb": np.full((4, 2, 3), np.nan)}, "not finite"),
        ({"flow": np.ones((3, 2))}, "do not fit"),
    ],
)
def test_maps_that_cannot_be_used_are_refused(change, message):
    arrays = {"rgb": np.ones((4, 2, 3)), "flow": np.ones((4, 2)), "t": np.arange(4) / 30} | change
    with pytest.raises(ValueError, match=message):
        check_map(CameraMap(**arrays), "here")


def test_interpolation_is_numpys():
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.uniform(0.01, 0.1, 50))
    values, clock = rng.normal(size=(50, 3)), np.linspace(-0.5, t[-1] + 0.5, 200)
    expected = np.stack([np.interp(clock, t, values[:, k]) for k in range(3)], axis=1)
    np.testing.assert_allclose(interpolate(values, t, clock), expected, atol=1e-5)


@pytest.mark.parametrize("fs", [30.0, 15.0, 5.0, 25.0])
def test_other_rates_keep_slow_waves_and_drop_fast_ones(fs):
    t = np.arange(900) / 30
    slow, fast = np.sin(2 * np.pi * 0.5 * t), np.sin(2 * np.pi * 12.0 * t)
    found = change_rate((slow + 3)[:, None], fs)[:, 0]
    at = np.arange(len(found)) / fs
    inside = (at > 2) & (at < 28)
    np.testing.assert_allclose(found[inside], (np.sin(2 * np.pi * 0.5 * at) + 3)[inside], atol=0.03)
    if fs < 24:
        assert np.abs(change_rate(fast[:, None], fs)[10:-10]).max() < 0.05


def test_flow_becomes_a_speed_where_frames_were_dropped():
    """A steady motion of one pixel a frame at 30 Hz, every third frame dropped: its speed stays one."""
    keep = np.arange(90) % 3 != 0
    t = (np.arange(90) / 30)[keep]
    flow = np.diff(np.arange(90.0)[keep], prepend=np.nan)[:, None]
    flow[0] = 0
    speed, at = velocity(CameraMap(np.ones((60, 1, 3)), flow, t))
    np.testing.assert_allclose(speed, 1.0)
    assert len(at) == 59


def test_cameras_are_aligned_by_their_time_stamps():
    session = Session("s", "p", {"a": a_map(300, 30.0, 0.0), "b": a_map(200, 20.0, 0.3)})
    aligned = align(session, "pulse", "rgb", 30.0)
    a, b = aligned.maps["a"][0, 0], aligned.maps["b"][0, 0]
    np.testing.assert_allclose(a[5:-5], b[5:-5], atol=0.05)
    assert aligned.moments["a"].shape == (aligned.length, 4, 4)


@pytest.mark.parametrize(("fs", "columns"), [(30.0, 300), (15.0, 150)])
@pytest.mark.parametrize("shift", [0.0, 0.1, 7.77])
@pytest.mark.parametrize("digits", [3, 15])  # some files count milliseconds
def test_ten_seconds_have_a_column_for_each_frame(fs, columns, shift, digits):
    session = Session("s", "p", {"a": a_map(300, 30.0, shift)})
    session.cameras["a"].t = session.cameras["a"].t.round(digits)
    aligned = align(session, "pulse", "rgb", fs)
    assert aligned.length == len(aligned.wave) == columns


def test_cameras_that_do_not_overlap_are_refused():
    session = Session("s1", "p", {"a": a_map(100), "b": a_map(100, start=60.0)})
    with pytest.raises(ValueError, match=r"session s1: the recordings do not overlap .* camera b 60\.00 to 63\.30 s"):
        align(session, "pulse", "rgb", 30.0)


def test_the_contact_wave_is_on_the_same_clock():
    t = np.arange(1000) / 100 - 0.5
    truth = Truth(t, {"ppg": np.sin(2 * np.pi * t)}, {"hr": np.full(1000, 60.0)})
    aligned = align(Session("s", "p", {"a": a_map()}, truth), "pulse", "rgb", 30.0)
    middle = slice(10, -10)
    assert np.corrcoef(aligned.wave[middle], aligned.maps["a"][0, 0][middle])[0, 1] > 0.99
    assert aligned.rate[20] == pytest.approx(60)


def aligned_sessions(count: int, people: int) -> list:
    sessions = [Session(f"s{k}", f"p{k % people}", {"a": a_map(400)}) for k in range(count)]
    return [align(session, "pulse", "rgb", 30.0) for session in sessions]


def test_a_batch_has_distinct_sessions_and_people_first():
    loader = ClipLoader(aligned_sessions(8, 4), 4, 100, 20, 30.0)
    batches = list(loader)
    assert len(batches) == 20
    for batch in batches:
        assert len(set(batch.sessions)) == 4
        assert len({int(name[1:]) % 4 for name in batch.sessions}) == 4  # four different people
        assert batch.maps["a"].shape == (4, 3, 4, 100)
        assert batch.subjects == [f"p{int(name[1:]) % 4}" for name in batch.sessions]
    assert len({name for batch in batches for name in batch.sessions}) == 8


def test_windows_do_not_overlap_and_validation_contrasts_sessions():
    sessions = aligned_sessions(5, 5)
    by_session = list(WindowLoader(sessions, 120, 30.0))
    assert [len(batch) for batch in by_session] == [3] * 5
    across = list(WindowLoader(sessions, 120, 30.0, batch_size=4))
    assert all(len(set(batch.sessions)) == len(batch) >= 2 for batch in across)
    assert sum(len(batch) for batch in across) == 15


def test_people_stay_in_one_split(tmp_path):
    for k in range(20):
        session = Session(f"s{k}", f"p{k % 10}", {"a": a_map(40)})
        save_session(session, tmp_path / session.name)
    found = split_by_person(tmp_path, {"train": 0.7, "val": 0.1, "test": 0.2}, 0)
    assert {split: len(folders) for split, folders in found.items()} == {"train": 14, "val": 2, "test": 4}
    people = {split: {int(f.name[1:]) % 10 for f in folders} for split, folders in found.items()}
    assert not people["train"] & people["test"]
    assert not people["train"] & people["val"]
    assert split_by_person(tmp_path, {"train": 0.7, "val": 0.1, "test": 0.2}, 1) != found
    with pytest.raises(ValueError, match="two splits"):
        check_subjects({"train": ["a"], "test": ["b", "a"]})


def test_own_folder_as_a_data_set(tmp_path, write_frames, moving):
    make_own(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(60))
    data = FaceRecordings(
        folder=str(tmp_path / "raw"),
        maps=str(tmp_path / "maps"),
        split={"train": 0.5, "val": 0.0, "test": 0.5},
        grid=4,
        box=[24, 16, 64, 64],
        flow=False,
        eval_seconds=0.5,
        clip_length=20,
        margin=1.1,
    )
    data.prepare_data()
    data.setup()
    assert data.cameras == ["phone", "webcam"]
    assert data.dims == {"channels": {"phone": 3, "webcam": 3}, "patches": 16}
    data.load("train")
    people = {split: {s.subject for s in part} for split, part in data.sessions.items()}
    assert not people["train"] & people["test"]


def recordings(maps, **options) -> FaceRecordings:
    """Data set of maps that are built already."""
    settings = {"grid": 2, "eval_seconds": 0.5, "clip_length": 20, "margin": 1.1} | options
    return FaceRecordings(maps=str(maps), split={"train": 0.5, "val": 0.0, "test": 0.5}, **settings)


def test_maps_built_with_other_settings_are_refused(tmp_path, write_frames, moving):
    make_own(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(30))
    build_corpus(recordings_of("own", tmp_path / "raw"), tmp_path / "maps", SETTINGS)
    box = list(SETTINGS.box)
    with pytest.raises(ValueError, match=r"built with grid=4, dataset\.grid is 2"):
        recordings(tmp_path / "maps").prepare_data()
    with pytest.raises(ValueError, match=r"built with box=\[24, 16, 64, 64\], dataset\.box is None"):
        recordings(tmp_path / "maps", grid=4).prepare_data()
    recordings(tmp_path / "maps", grid=4, box=box, detector="blazeface").prepare_data()
    data = recordings(tmp_path / "maps", grid=4, box=box, signal="resp", fs=30.0)
    with pytest.raises(ValueError, match=r"session session\d: the map of camera phone was built without optical flow"):
        data.setup()


def test_sessions_without_overlap_are_left_out_and_said(tmp_path, caplog):
    for k in range(4):
        cameras = {"a": a_map(60), "b": a_map(60, start=60.0 if k == 1 else 0.0)}
        save_session(Session(f"s{k}", f"p{k % 2}", cameras), tmp_path / f"s{k}")
    data = recordings(tmp_path)
    with caplog.at_level(logging.WARNING):
        data.setup()
        data.load("train")
    assert sum(map(len, data.sessions.values())) == 3
    assert "left out: session s1: the recordings do not overlap" in caplog.text


def test_cameras_of_training_count_where_the_test_lacks_them(tmp_path):
    for k in range(4):
        save_session(Session(f"s{k}", f"p{k}", {"a": a_map(60), "b": a_map(60)}), tmp_path / f"s{k}")
    for folder in recordings(tmp_path).assigned()["test"]:
        save_session(Session(folder.name, f"p{folder.name[1:]}", {"a": a_map(60)}), folder)
        (folder / "cam_b.npz").unlink()
    data = recordings(tmp_path)
    data.setup()
    assert data.dims == {"channels": {"a": 3, "b": 3}, "patches": 4}
    wanted = recordings(tmp_path, cameras=["b", "a"])
    wanted.setup()
    assert wanted.cameras == ["b", "a"]
    with pytest.raises(ValueError, match=r"no session has c; there are a$"):
        recordings(tmp_path, cameras=["a", "c"]).setup()


def test_what_an_own_folder_leaves_open_is_said(tmp_path, write_frames, moving, caplog):
    make_own(tmp_path / "raw", lambda path, frames: write_frames(path, frames), moving(30))
    (tmp_path / "raw" / "session2" / "subject.txt").unlink()
    images = tmp_path / "raw" / "session0" / "cam_stills"
    images.mkdir()
    for k, image in enumerate(moving(20)):
        Image.fromarray(image).save(images / f"{k}.png")
    stamps = "\n".join(f"{k / 20:.3f}" for k in range(20))
    (tmp_path / "raw" / "session0" / "cam_stills_t.csv").write_text(f"t\n{stamps}\n")
    with caplog.at_level(logging.WARNING):
        recordings = recordings_of("own", tmp_path / "raw")
        build_corpus(recordings, tmp_path / "maps", FrontEnd(grid=16, box=SETTINGS.box, flow=False))
    assert "1 session(s) have no subject.txt, e.g. session2" in caplog.text
    assert "maps of 16 x 16 patches are small pictures of the faces" in caplog.text
    assert load_session(tmp_path / "maps" / "session0").cameras["stills"].fps == pytest.approx(20)


def test_a_missing_folder_says_where_it_was_looked_for(tmp_path):
    data = FaceRecordings(layout="pure", folder="PURE", root=tmp_path)
    with pytest.raises(MissingData, match="PURE"):
        data.prepare_data()
