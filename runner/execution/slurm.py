"""Ask SLURM about its jobs, and about the job that this process belongs to."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess

log = logging.getLogger(__name__)


def job_id() -> str | None:
    """Return the id of this process's job (`12`, or `12_3` in an array); None outside of SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """Return how often this process's job was requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def requeue(job: str) -> None:
    """Put a job back into the queue. SLURM ends it on its node."""
    log.info("requeueing job %s", job)
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)


def queue() -> dict[str, str] | None:
    """Return the state (PENDING, RUNNING, ...) of each job of the user in the queue; None if SLURM does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("squeue does not answer: %s", getattr(error, "stderr", None) or error)
        return None
    return dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
