"""Show progress of long work outside a training loop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def seconds_left(started: float, done: int, total: int) -> float:
    """Estimate the seconds until all items are done, at the mean speed so far.

    Args:
        started: `time.monotonic()` when the first item began.
        done: number of items that are done; at least 1.
        total: number of all items.
    """
    return (time.monotonic() - started) / done * (total - done)


def track(items: Sequence[T], description: str, every_seconds: float = 30.0) -> Iterator[T]:
    """Yield the items and show progress: a bar in a terminal, else a log line now and then, also in a sweep.

    Args:
        items: what to iterate over.
        description: what is being done, such as "pruned blocks".
        every_seconds: shortest time between two log lines.
    """
    if sys.stdout.isatty():
        from rich.progress import track as progress_bar

        yield from progress_bar(items, description=description, transient=True)
        return
    started = printed = time.monotonic()
    for done, item in enumerate(items):
        if done and time.monotonic() - printed >= every_seconds:
            printed = time.monotonic()
            left = seconds_left(started, done, len(items))
            log.info("%s %d/%d, %.0f s left", description, done, len(items), left, extra={"underway": True})
        yield item
