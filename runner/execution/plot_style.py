"""Style of all figures. Sizes, fonts and colours are those of figures.mplstyle."""

from __future__ import annotations

from collections.abc import Iterator
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
