"""Progress of work outside a training loop: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def track(items: Sequence[T], what: str, every_seconds: float = 30.0) -> Iterator[T]:
    """Yields the items and tells how many are done, and how long the others will take."""
    if sys.stdout.isatty():
        from rich.progress import track as bar

        yield from bar(items, description=what, transient=True)
        return
    started = printed = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - printed >= every_seconds:
            printed = now
            log.info("%s %d/%d, %.0f s left", what, done, len(items), (now - started) / done * (len(items) - done))
        yield item
