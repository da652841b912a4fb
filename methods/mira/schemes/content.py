"""Content watermark: a text on images of one class (Zhang et al., AsiaCCS 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.batching import generator
from datasets.checks import check_fraction
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource, check_class, draw_images

CONTENT = 201
# Letters of 5 x 7 pixels, a row a number: an offline substitute for the 10-point font of the official code.
GLYPHS = {
    "T": (0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100),
    "E": (0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111),
    "S": (0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110),
}


def text_mask(height: int, width: int) -> Tensor:
    """Return True where the text "TEST" stands: at the left, in the lower quarter of the image.

    The text is 23 x 7 pixels; narrower images show its beginning. It starts in row 22 of 32 and 18 of 28, as in the
    official code, and never leaves the image at the bottom.

    Shapes: -> (height, width) bool.
    """
    letters = [torch.tensor([[row >> 4 - i & 1 for i in range(5)] for row in GLYPHS[letter]]) for letter in "TEST"]
    gap = torch.zeros(7, 1, dtype=torch.long)
    text = torch.cat([part for letter in letters for part in (letter, gap)][:-1], dim=1).bool()
    top = max(0, min(height - 10, height - 7))
    mask = torch.zeros(height, width, dtype=torch.bool)
    shown = text[: height - top, :width]
    mask[top : top + shown.shape[0], : shown.shape[1]] = shown
    return mask


class Content(Scheme):
    """Text on training images of one class, which get another class as label.

    Args:
        count: number of triggers.
        source: class of the images.
        target: class of the triggers.
        fill: pixel value of the text in [0, 1].

    Raises:
        ValueError: source and target are equal, or the pixel value is out of its range.
    """

    target: int

    def __init__(self, count: int = 100, source: int = 4, target: int = 6, fill: float = 0.5) -> None:
        super().__init__(count)
        check_fraction("method.scheme", fill=fill)
        if source == target:
            raise ValueError(f"method.scheme.source and method.scheme.target must differ, got {source} twice")
        self.source, self.target, self.fill = source, target, fill

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return images of the source class with the text; see `Scheme`."""
        check_class("method.scheme.source", self.source, source.num_classes)
        check_class("method.scheme.target", self.target, source.num_classes)
        x, _ = draw_images(source, self.count, generator(source.seed, CONTENT), self.source)
        x[:, :, text_mask(*source.shape[1:])] = self.fill
        return TriggerSet.of(x, torch.full((self.count,), self.target))
