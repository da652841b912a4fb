"""One process at a time works on a run's folder."""

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


def rank() -> int:
    """Of this process among those of one distributed run; 0 on its own."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ.get("RANK", os.environ["LOCAL_RANK"]))
    return int(os.environ["SLURM_PROCID"]) if int(os.environ.get("SLURM_NTASKS", 1)) > 1 else 0


@contextmanager
def exclusive(folder: Path, wait: bool) -> Iterator[bool]:
    """Holds the folder's lock, which a killed process gives up by itself; yields whether it had to wait for it.

    The ranks above 0 of a distributed run pass at once: rank 0 holds the lock for them.
    Raises UserError where another process holds it and `wait` is False, or where the folder cannot be made.
    """
    if rank() > 0:
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
            raise UserError(f"{folder}\nis under way in {holder}") from None
        log.info("%s\n  is under way in %s: waiting for it", folder, holder)
        lock.acquire(poll_interval=0.5)
        waited = True
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}\nName another place with paths.outputs=<folder>") from error
    try:
        yield waited
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Does a process work on the folder at this moment?"""
    if not (folder / ".lock").exists():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
