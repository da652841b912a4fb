"""Figures of a pruning run."""

from __future__ import annotations

from typing import Any

from methods.esparse.engine import Report


def figures_of(report: Report) -> dict[str, Any]:
    """The kept share of the score by block, and channels' entropy against norm."""
    return {}
