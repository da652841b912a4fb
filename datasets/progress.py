"""Show progress of long work outside a training loop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, cast

log = logging.getLogger(__name__)
T = TypeVar("T")
UNDERWAY = {"underway": True}  # `extra` of a log record about progress, which a sweep prints too (runner.console)


def seconds_left(started: float, done: int, total: int) -> float:
    """Estimate the seconds until all items are done, at the mean speed so far.

    Args:
        started: `time.monotonic()` when the first item began.
        done: number of items that are done; at least 1.
        total: number of all items.
    """
    return (time.monotonic() - started) / done * (total - done)


def track(items: Iterable[T], description: str, every_seconds: float = 30.0, total: int | None = None) -> Iterator[T]:
    """Yield the items and show progress: a bar in a terminal, else a log line now and then, also in a sweep.

    Args:
        items: what to iterate over.
        description: what is being done, such as "pruned blocks".
        every_seconds: shortest time between two log lines.
        total: number of items; None: `items` has a length.
    """
    total = len(cast(Sequence[T], items)) if total is None else total
    if sys.stdout.isatty():
        from rich.progress import track as progress_bar

        yield from progress_bar(items, description=description, total=total, transient=True)
        return
    started = printed = time.monotonic()
    for done, item in enumerate(items):
        if done and time.monotonic() - printed >= every_seconds:
            printed = time.monotonic()
            left = seconds_left(started, done, total)
            log.info("%s %d/%d, %.0f s left", description, done, total, left, extra=UNDERWAY)
        yield item
