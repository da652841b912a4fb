"""Printed output whose reader may stop reading before the end (`| head`)."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exit_on_broken_pipe() -> Iterator[None]:
    """End the process quietly if the reader of its output has gone, as SIGPIPE does with other tools."""
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
    """Log handler for the terminal. Without a reader it prints nothing: a run goes on and has its run.log.

    While a progress bar is shown, lines appear above it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        rich = sys.modules.get("rich")
        console = rich.get_console() if rich else None
        if console is None or not getattr(console, "_live_stack", None):
            super().emit(record)
            return
        try:
            console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a broken pipe."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


class OneLineARun(logging.Filter):
    """Filter for the terminal of a sweep, which prints a line for each run: warnings, errors and progress remain."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is printed."""
        return record.levelno >= logging.WARNING or getattr(record, "underway", False)
