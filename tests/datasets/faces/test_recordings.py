"""Sessions and clips on a common clock; splits by person; data sets of recordings."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from datasets.download import CorruptData, MissingData
from datasets.faces.build import build_corpus, recordings_of
from datasets.faces.clips import align, change_rate, interpolate, velocity
from datasets.faces.datamodule import ClipLoader, WindowLoader, check_subjects
from datasets.faces.frontend import FrontEnd
from datasets.faces.recordings import FaceRecordings, split_by_person
from datasets.faces.scene import SceneSettings
from datasets.faces.session import CameraMap, Session, Truth, check_map, load_session, save_session
from datasets.faces.synthetic import synthetic_session
from tests.datasets.faces.test_layouts import SETTINGS, make_own


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
