"""Names of figure files, their titles, and how they are saved."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.config.compose import parse
from runner.execution.plot_style import pyplot
from runner.execution.plot_style import save_figure as save

TITLE_WIDTH = 56  # characters of the title in one line

# Overrides that do not change what a figure shows.
NOT_SHOWN = re.compile(r"experiment|(table|figure)\.metric|(logger|paths|figures|hydra)\b.*")


def figure_path(outputs: str | Path, experiment: str, metric: str, overrides: Sequence[str]) -> Path:
    """Return the path of an experiment's figure, and make its folder.

    The file's name is the metric and the overrides that change the figure, so that a part of a figure does not
    overwrite the whole.

    Args:
        outputs: folder of the outputs.
        experiment: name of the experiment.
        metric: metric that is drawn.
        overrides: overrides of the command.
    """
    changing = [o for o in overrides if not NOT_SHOWN.fullmatch(parse(o).key_or_group or "")]
    name = re.sub(r"[^\w=.,+-]", "_", "-".join([metric, *changing]))
    path = Path(outputs).absolute() / "figures" / experiment / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_figure(figure: Any, path: Path, formats: Sequence[str]) -> list[Path]:
    """Save a figure as PNG, which W&B gets, and in each of the formats, and close it. Returns the files."""
    with pyplot():
        return save(figure, path.with_suffix(""), list(dict.fromkeys(["png", *formats])))


def set_title(
    figure: Any, title: str, counts: Sequence[int], sample: str = "runs", more_lines: Sequence[str] = ()
) -> None:
    """Set the title of a figure, wrapped to balanced lines, and the number of runs that its means are of.

    Args:
        figure: matplotlib figure.
        title: text of the title.
        counts: number of averaged values of each line or bar.
        sample: unit of the averaged values, `runs` or `folds`.
        more_lines: lines below.
    """
    low, high = min(counts), max(counts)
    number = str(low) if low == high else f"{low} to {high}"
    averaged = [f"mean and standard deviation of {number} {sample}"] if high > 1 else []
    figure.suptitle("\n".join([*balanced_lines(title, TITLE_WIDTH), *averaged, *more_lines]))


def balanced_lines(text: str, width: int) -> list[str]:
    """Wrap a text to as few lines as `width` allows, as equal in length as possible."""
    fewest = len(textwrap.wrap(text, width))
    narrower = (textwrap.wrap(text, n) for n in range(20, width + 1))
    return next(lines for lines in narrower if len(lines) == fewest)
