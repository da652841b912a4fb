"""Check the layout of figures."""

from __future__ import annotations

from itertools import combinations
from typing import Any


def overlapping_texts(figure: Any) -> list[tuple[str, str]]:
    """Return the pairs of texts of a figure that overlap; a text that leaves the figure is paired with `edge`."""
    from matplotlib.text import Text

    figure.canvas.draw()
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    ticks = [(axis, tick) for axis in axes for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]]
    labels = {label for _, tick in ticks for label in (tick.label1, tick.label2)}
    shown = {tick.label1 for axis, tick in ticks if is_within(tick.get_loc(), axis.get_view_interval())}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and (text not in labels or text in shown)]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]
    boxes = [(text, box.padded(-0.5)) for text, box in boxes]
    overlapping = [(a, b) for (a, box_a), (b, box_b) in combinations(boxes, 2) if box_a.overlaps(box_b)]
    (left, bottom), (right, top) = figure.bbox.min, figure.bbox.max
    leaving = [t for t, b in boxes if b.x0 < left or b.x1 > right or b.y0 < bottom or b.y1 > top]
    return overlapping + [(text, "edge") for text in leaving]


def is_within(value: float, limits: tuple[float, float]) -> bool:
    """Return whether a value lies within the limits of an axis."""
    return bool(min(limits) <= value <= max(limits))
