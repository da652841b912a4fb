"""Do two rows of a table differ by more than their runs differ among themselves?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import ttest_ind_from_stats

LEVELS = {0.01: "**", 0.05: "*"}  # p below -> mark
LEGEND = ", ".join(f"{sign} p < {level}" for level, sign in sorted(LEVELS.items(), reverse=True))


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p-value of Welch's t-test that the means of a and b are equal; their variances may differ.

    None with fewer than two values on a side, and where neither side varies: then there is nothing to judge by.
    """
    if min(len(a), len(b)) < 2 or not (np.ptp(a) or np.ptp(b)):
        return None
    sides = [(np.mean(side), np.std(side, ddof=1), len(side)) for side in (a, b)]
    return float(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue)


def mark(p: float | None) -> str:
    """`**`, `*` or nothing."""
    return next((sign for level, sign in LEVELS.items() if p is not None and p < level), "")
