"""What SLURM says of jobs, and of the one that this process belongs to."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess

log = logging.getLogger(__name__)


def job_id() -> str | None:
    """Of the job that this process runs in (`12`, or `12_3` in an array); None outside of SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often this process's job was requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def requeue(job: str) -> None:
    """Puts a job back into the queue; SLURM ends it where it runs."""
    log.info("requeueing job %s", job)
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)


def queue() -> dict[str, str] | None:
    """State (PENDING, RUNNING, ...) of each of the user's jobs that has not ended; None where SLURM cannot be asked."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("squeue does not answer: %s", getattr(error, "stderr", None) or error)
        return None
    return dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
