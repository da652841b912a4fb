"""Significance tests between the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = {0.01: "**", 0.05: "*"}  # p below this level -> mark
LEGEND = ", ".join(f"{sign} p < {level}" for level, sign in sorted(LEVELS.items(), reverse=True))


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Welch's t-test that the means of a and b are equal.

    Args:
        a: values of one side.
        b: values of the other side; their variance may differ.

    Returns:
        None if a side has fewer than two values or neither side varies.
    """
    from scipy.stats import ttest_ind_from_stats

    if min(len(a), len(b)) < 2 or not (np.ptp(a) or np.ptp(b)):
        return None
    sides = [(np.mean(side), np.std(side, ddof=1), len(side)) for side in (a, b)]
    return float(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue)


def mark(p: float | None) -> str:
    """Return the mark of a p-value: `**`, `*` or nothing."""
    return next((sign for level, sign in LEVELS.items() if p is not None and p < level), "")
