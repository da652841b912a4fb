"""Style of all figures. Sizes, fonts and colours are those of figures.mplstyle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("figures.mplstyle")
COLUMN_WIDTH = 3.3  # inches: one column of a two-column paper
LINE_STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
HOLLOW: dict[str, Any] = {"markeredgewidth": 0.8, "markerfacecolor": "white"}  # marker of a reported value


@contextmanager
def pyplot() -> Iterator[Any]:
    """Yield matplotlib.pyplot with the style of the project, drawing to files only."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.style.context(STYLE):
        yield plt


def colour(index: int) -> str:
    """Return a colour of the style's palette, which repeats. Call it within `pyplot`."""
    import matplotlib

    palette = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return str(palette[index % len(palette)])


def stable_colours(values: Sequence[str], known: Sequence[str] = ()) -> dict[str, int]:
    """Return an index of the palette for each value, the same in every figure as far as that is possible.

    A known value has the colour of its place among the known ones. If two values of a figure would share a colour, the
    later one gets a free colour.

    Args:
        values: values of a figure, in their order.
        known: values that any figure of the kind may have, such as all methods of a paper.
    """
    import matplotlib

    size = len(matplotlib.rcParams["axes.prop_cycle"])
    chosen: dict[str, int] = {}
    for value in dict.fromkeys(values):
        wanted = known.index(value) if value in known else len(chosen)
        free = [(wanted + i) % size for i in range(size) if (wanted + i) % size not in chosen.values()]
        chosen[value] = free[0] if free else wanted % size
    return chosen


def save_figure(figure: Any, path: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Save a figure, each file whole or not at all, and close it. Call it within `pyplot`.

    Args:
        figure: matplotlib figure.
        path: place of the file, without a suffix.
        formats: suffixes of the files: png, pdf, svg.

    Returns:
        Paths of the files.
    """
    import matplotlib.pyplot as plt

    paths = []
    try:
        for suffix in formats:
            target = path.with_name(f"{path.name}.{suffix}")
            temporary = path.with_name(f".{path.name}.{os.getpid()}.{suffix}")
            try:
                figure.savefig(temporary)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            paths.append(target)
    finally:
        plt.close(figure)
    return paths
