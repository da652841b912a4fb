"""Pixel values of every image mode, against values that were chosen before the file was written."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.download import CorruptData
from datasets.images.decode import forget_warnings, read_image

RAMP = np.linspace(0, 65535, 64).reshape(8, 8).round().astype(np.uint16)
BYTES = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def read(path: Path, channels: int = 3) -> np.ndarray:
    """(H, W, channels) int"""
    return read_image(path, channels, None).permute(1, 2, 0).numpy().astype(int)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def grey_everywhere(path: Path, expected: np.ndarray) -> None:
    assert np.array_equal(read(path, 1)[..., 0], expected)
    assert np.array_equal(read(path, 3), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_of_grey_are_scaled(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        saved(path, Image.fromarray(RAMP))
    grey_everywhere(path, np.rint(RAMP / 257).astype(int))


def test_black_and_white_of_16_bits_stay_black_and_white(tmp_path):
    ends = np.array([[0, 65535], [128, 129]], dtype=np.uint16)
    grey_everywhere(saved(tmp_path / "x.png", Image.fromarray(ends)), np.array([[0, 255], [0, 1]]))


@pytest.mark.parametrize(
    ("values", "kind"), [(np.int32, "32-bit whole numbers"), (np.float32, "floating point numbers")]
)
def test_values_of_unknown_range_are_refused(tmp_path, values, kind):
    path = saved(tmp_path / "x.tif", Image.fromarray(RAMP.astype(values)))
    with pytest.raises(CorruptData, match=rf"{path} holds {kind}.*save it with 8 or 16 bits"):
        read_image(path, 1, None)


def test_one_bit(tmp_path):
    dots = np.indices((8, 8)).sum(0) % 2 == 0
    for suffix in ("png", "tif", "pbm"):
        grey_everywhere(saved(tmp_path / f"x.{suffix}", Image.fromarray(dots)), dots * 255)


def test_grey_and_colour(tmp_path):
    grey_everywhere(saved(tmp_path / "l.png", Image.fromarray(BYTES)), BYTES)
    path = saved(tmp_path / "rgb.png", Image.fromarray(COLOURS))
    assert np.array_equal(read(path), COLOURS)
    luma = COLOURS @ [0.299, 0.587, 0.114]  # ITU-R 601
    assert np.abs(read(path, 1)[..., 0] - luma).max() <= 0.51


def test_a_palette(tmp_path):
    image = Image.fromarray(np.indices((8, 8)).sum(0).astype(np.uint8) % 3, mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    expected = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]])[np.indices((8, 8)).sum(0) % 3]
    for suffix in ("png", "gif", "bmp"):
        assert np.array_equal(read(saved(tmp_path / f"x.{suffix}", image)), expected)
    see_through = saved(tmp_path / "t.png", image, transparency=1)
    expected[np.indices((8, 8)).sum(0) % 3 == 1] = 255
    assert np.array_equal(read(see_through), expected)


def blended(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def test_transparent_pixels_are_shown_on_white_and_that_is_said_once(tmp_path, caplog):
    alpha = np.resize(np.array([0, 255, 128, 7], dtype=np.uint8), (8, 8))
    images = {
        "rgba": (Image.fromarray(np.dstack([COLOURS, alpha])), COLOURS),
        "la": (Image.fromarray(np.dstack([BYTES, alpha]), mode="LA"), np.repeat(BYTES[..., None], 3, 2)),
    }
    forget_warnings()
    for name, (image, colour) in images.items():
        path = saved(tmp_path / f"{name}.png", image)
        assert np.abs(read(path) - blended(colour, alpha)).max() <= 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "rgba.png has transparent pixels: they are shown on white" in caplog.text


def test_a_transparent_colour_of_an_rgb_file(tmp_path):
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0)
    path = saved(tmp_path / "x.png", Image.fromarray(pixels), transparency=(255, 0, 0))
    assert read(path)[0, 0].tolist() == [255, 255, 255]
    assert read(path)[1, 1].tolist() == [0, 0, 0]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path, caplog):
    forget_warnings()
    opaque = np.full((8, 8), 255, dtype=np.uint8)
    assert np.array_equal(read(saved(tmp_path / "x.png", Image.fromarray(np.dstack([COLOURS, opaque])))), COLOURS)
    assert not caplog.records


def test_cmyk_and_its_inverted_jpeg(tmp_path):
    inks = np.zeros((8, 8, 4), dtype=np.uint8)
    inks[:, :4, 1:3] = 255  # magenta and yellow: red
    inks[:, 4:, 3] = 255  # black
    image = Image.fromarray(inks, mode="CMYK")
    expected = np.zeros((8, 8, 3))
    expected[:, :4, 0] = 255
    assert np.abs(read(saved(tmp_path / "x.tif", image)) - expected).max() == 0
    path = saved(tmp_path / "x.jpg", image, quality=100, subsampling=0)
    content = path.read_bytes()
    assert b"Adobe" in content  # such files hold the inks inverted
    assert np.abs(read(path) - expected).max() <= 8


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_the_orientation_of_a_camera_is_applied(tmp_path, suffix, orientation, turned):
    blocks = np.kron(np.array([[10, 80, 150], [200, 250, 40]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(blocks), exif=exif)
    expected = turned(blocks).astype(int)
    assert read(path, 1).shape[:2] == expected.shape
    assert np.abs(read(path, 1)[..., 0] - expected).max() <= 3


def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path, caplog):
    forget_warnings()
    frames = [Image.fromarray(np.full((8, 8), value, dtype=np.uint8)) for value in (60, 200)]
    for suffix in ("tif", "gif"):
        path = saved(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:])
        grey_everywhere(path, np.full((8, 8), 60))
    assert caplog.text.count("has several frames: the first one is read") == 1


def test_a_resized_16_bit_image_is_that_of_its_8_bit_copy(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(RAMP))
    copy = saved(tmp_path / "y.png", Image.fromarray(np.rint(RAMP / 257).astype(np.uint8)))
    assert read_image(path, 1, 5).equal(read_image(copy, 1, 5))
