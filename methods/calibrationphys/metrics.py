"""Errors of rates against a reference."""

from __future__ import annotations

import numpy as np


def rate_metrics(estimated: np.ndarray, reference: np.ndarray, within: float = 5.0) -> dict[str, float]:
    """Return the errors of rates, per minute: mae, rmse, me, sd, mape (%), r, pte (fraction), loa (1.96 sd), icc.

    The error is estimate minus reference. `me` and `loa` are bias and limits of agreement of Bland and Altman, `pte` is
    the share of errors below `within`, `icc` the intraclass correlation ICC(1,1). r and icc are NaN for one window.

    Args:
        estimated: estimated rates, (N,).
        reference: rates of the contact sensor, (N,).
        within: largest error per minute that counts as right.
    """
    estimated, reference = np.asarray(estimated, float), np.asarray(reference, float)
    error = estimated - reference
    several = len(error) > 1
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "me": float(error.mean()),
        "sd": float(error.std()),
        "mape": float(100 * (np.abs(error) / reference).mean()),
        "r": _correlation(estimated, reference) if several else float("nan"),
        "pte": float((np.abs(error) < within).mean()),
        "loa": float(1.96 * error.std()),
        "icc": intraclass_correlation(estimated, reference) if several else float("nan"),
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation, 0 where a side is constant."""
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def intraclass_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return ICC(1,1): one-way random effects, single measurement, two raters.

    Args:
        x: first measurement of each case, (N,).
        y: second measurement, (N,).
    """
    cases = np.stack([x, y], axis=1)
    means = cases.mean(axis=1)
    between = 2 * ((means - cases.mean()) ** 2).sum() / (len(cases) - 1)
    within = ((cases - means[:, None]) ** 2).sum() / len(cases)
    total = between + within
    return float((between - within) / total) if total > 0 else 1.0


def standard_error(errors: np.ndarray, groups: list[str], draws: int = 1000, seed: int = 0) -> float:
    """Return the standard error of the mean absolute error, by a bootstrap over people.

    Args:
        errors: errors, (N,).
        groups: person of each error.
        draws: number of bootstrap samples.
        seed: seed of the draws.
    """
    names = list(dict.fromkeys(groups))
    sums = np.array([np.abs(errors[[g == name for g in groups]]).sum() for name in names])
    counts = np.array([groups.count(name) for name in names])
    picks = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    return float((sums[picks].sum(axis=1) / counts[picks].sum(axis=1)).std())
