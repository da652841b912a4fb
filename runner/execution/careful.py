"""Calls of trackers that may fail or hang, while the run goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class ThreadedCall:
    """Call of a function in a thread, for which the caller waits for a bounded time.

    Args:
        action: function without arguments.
    """

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._value: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._action()
        except Exception as error:
            self._error = error
        except BaseException as error:  # such as SystemExit, which must not end the process of the run
            self._error = RuntimeError(f"{type(error).__name__}: {error}")

    def wait(self, seconds: float) -> bool:
        """Wait for at most some seconds, and return whether the call has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def value(self) -> Any:
        """Return the value of a call that has ended. Raises the error of the function."""
        if self._error:
            raise self._error
        return self._value


class Careful:
    """Calls of a tracker. After the first one that fails there are no more; the run's own files have everything.

    Args:
        name: name of the tracker, for the warning.
    """

    def __init__(self, name: str) -> None:
        self.name, self.lost = name, False

    def __call__(self, action: Callable[[], Any], seconds: float | None = None) -> Any:
        """Call an action and return its value; None if it fails, or does not end within `seconds`."""
        if self.lost:
            return None
        try:
            return action() if seconds is None else _within(action, seconds)
        except Exception as error:
            self.lost = True
            log.warning("%s failed, the run continues without it: %s: %s", self.name, type(error).__name__, error)
            return None


def _within(action: Callable[[], Any], seconds: float) -> Any:
    call = ThreadedCall(action)
    if not call.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return call.value()
