"""What is printed, where whoever reads it may leave before the end (`| head`)."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Ends the process quietly where the reader of its output has left, as SIGPIPE does with other tools."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        stdout = select.poll()
        stdout.register(sys.stdout, 0)
        if not stdout.poll(0):  # it was another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        sys.exit(128 + signal.SIGPIPE)


class Handler(logging.StreamHandler):
    """Without a reader nothing is printed: a run goes on, and has its run.log."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
