"""Decode image files of any mode to grey or RGB bytes."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from datasets.download import CorruptData

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

MODES = {1: "L", 3: "RGB"}
FORMATS_OF_16_BITS = {"PNG", "PPM"}  # formats whose whole numbers Pillow scales to 0..65535 in mode "I"
WITH_PREVIEWS = {"MPO"}  # formats of cameras, whose further frames are previews or other views of the same picture

_warned: set[str] = set()


def read_image(path: Path, channels: int, size: int | None) -> Tensor:
    """Read an image file as grey or RGB bytes.

    - 16-bit grey values are scaled from 0..65535 to 0..255. Images of 32-bit whole numbers or floating point numbers
      are refused, since their range is not known.
    - Transparent pixels are shown on white.
    - The orientation in the EXIF data is applied, unlike in torchvision's ImageFolder.
    - Of several frames or pages the first is read.

    Args:
        path: image file in any format that Pillow reads.
        channels: 1 for grey, 3 for RGB.
        size: side to which the image is resized bilinearly, without keeping its proportions; None: as in the file.

    Returns:
        (channels, H, W) uint8.

    Raises:
        CorruptData: the file cannot be read, or its values have no known range; the message names it.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.format not in WITH_PREVIEWS and getattr(image, "n_frames", 1) > 1:
                warn_once(path, "has several frames: the first one is read")
            pixels = to_bytes(ImageOps.exif_transpose(image), image.format, path).convert(MODES[channels])
    except CorruptData:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, KeyError, Image.DecompressionBombError) as error:
        raise CorruptData(f"{path} is no image that can be read: {error}") from error
    if size is not None and pixels.size != (size, size):
        pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
    array = torch.from_numpy(np.array(pixels))
    return array.view(*array.shape[:2], channels).permute(2, 0, 1)


def to_bytes(image: Image, format: str | None, path: Path) -> Image:
    """Convert an image to a mode with 8 bits a channel and without transparency.

    Args:
        image: decoded image.
        format: name of the file's format, such as "PNG".
        path: file of the image, for messages.

    Raises:
        CorruptData: the values are 32-bit whole numbers or floating point numbers.
    """
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and format in FORMATS_OF_16_BITS):
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floating point numbers"
        raise CorruptData(
            f"{path} holds {kind}, whose values for black and white are not known: save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        return on_white(image.convert("RGBA"), path)
    return image


def on_white(image: Image, path: Path) -> Image:
    """Return an RGBA image as RGB, its transparent pixels blended with white."""
    from PIL import Image

    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    warn_once(path, "has transparent pixels: they are shown on white")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def warn_once(path: Path, what: str) -> None:
    """Log a warning about a file, unless the same was said of another file since `forget_warnings`."""
    if what not in _warned:
        _warned.add(what)
        log.warning("%s %s, here and in other files", path, what)


def forget_warnings() -> None:
    """Let `warn_once` say everything again, for another set of files."""
    _warned.clear()
