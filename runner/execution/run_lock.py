"""Lock of a run's folder, so that one process at a time works on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from runner.errors import UserError
from runner.files import read_json

log = logging.getLogger(__name__)


def global_rank() -> int:
    """Return the global rank of this process; 0 when not distributed."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ.get("RANK", os.environ["LOCAL_RANK"]))
    return int(os.environ["SLURM_PROCID"]) if int(os.environ.get("SLURM_NTASKS", 1)) > 1 else 0


@contextmanager
def run_lock(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder. The system releases it if the process is killed.

    Ranks above 0 of a distributed run pass at once: rank 0 holds the lock for them.

    Args:
        folder: folder of a run; it is made if it is missing.
        wait: whether to wait if another process holds the lock.

    Yields:
        Whether this process had to wait.

    Raises:
        UserError: another process holds the lock and `wait` is False, or the folder cannot be made.
    """
    if global_rank() > 0:
        yield False
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
        waited = False
    except Timeout:
        state = read_json(folder / "state.json") or {}
        holder = f"process {state.get('pid', '?')} on {state.get('host', '?')} since {state.get('time', '?')}"
        if not wait:
            raise UserError(f"{folder}\nis under way in {holder}; wait=true waits for it") from None
        log.info("%s\n  is under way in %s: waiting for it", folder, holder)
        lock.acquire(poll_interval=0.5)
        waited = True
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}\nName another place with paths.outputs=<folder>") from error
    try:
        yield waited
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process works on the folder at this moment."""
    if not (folder / ".lock").exists():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
