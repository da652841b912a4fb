"""Status of runs: finished, under way, failed or missing, for sweeps, tables and figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from runner.errors import UserError
from runner.execution import slurm
from runner.execution.record import headline, read_metrics, read_result
from runner.execution.run_lock import is_locked
from runner.files import read_json

STATES = ("finished", "stale", "running", "queued", "interrupted", "failed", "missing")
UNDER_WAY = ("running", "queued")
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")  # SLURM's states of a job that waits


class HasFolder(Protocol):
    """Run, or what is left of one on disk: its folder and its config."""

    @property
    def folder(self) -> Path:
        """Folder of the run's files."""

    @property
    def cfg(self) -> DictConfig:
        """Config of the run."""


@dataclass(frozen=True)
class RunStatus:
    """Status of one run.

    Args:
        state: one of STATES.
        detail: one line for people.
        mistake: whether the run failed by a mistake of the user.
    """

    state: str
    detail: str = ""
    mistake: bool = False


def run_status(run: HasFolder, queue: dict[str, str] | None = None) -> RunStatus:
    """Return the status of a run.

    Args:
        run: run to look at.
        queue: SLURM's state of each job (`slurm.queue()`), or None if SLURM was not asked.
    """
    result, state = read_result(run.folder), read_json(run.folder / "state.json")
    if result is not None:
        again = f"; running it again failed: {state.get('error')}" if state and state.get("state") == "failed" else ""
        return RunStatus("finished", f"{sum(result['seconds'].values()):.0f} s{main_metrics(result)}{again}")
    submitted = read_json(run.folder / "job.json")
    job = submitted["job"] if submitted else None
    if job and queue and job in queue:
        waits = queue[job] in QUEUED
        return RunStatus("queued" if waits else "running", f"job {job}, {progress(run)}")
    if state and state.get("state") != "interrupted":
        active = _status_from_state(run, state, f"job {job}, " if job else "")
        if active:
            return active
    if job and submitted:
        return _status_of_ended_job(state, submitted, asked=queue is not None)
    if state:
        return RunStatus("interrupted", f"{state.get('error', 'it was killed')}; {progress(run)}")
    return RunStatus("missing")


def main_metrics(result: dict[str, Any], most: int = 2) -> str:
    """Return the first headline metrics of a result, as a clause."""
    try:
        chosen = headline(result["metrics"])[:most]
        return "".join(f", {name} {result['metrics'][name]:.4g}" for name in chosen)
    except (AttributeError, TypeError, ValueError):  # a result that was edited by hand
        return ""


def _status_from_state(run: HasFolder, state: dict[str, Any], prefix: str) -> RunStatus | None:
    """Return the status of a run that is running here or has failed, by its state.json; else None."""
    if state.get("state") == "running" and is_locked(run.folder):
        place = f"process {state.get('pid')} on {state.get('host')}"
        return RunStatus("running", f"{prefix}{place}, {progress(run)}")
    if state.get("state") == "failed":
        return RunStatus("failed", state.get("error", ""), state.get("mistake", False))
    return None


def _status_of_ended_job(state: dict[str, Any] | None, submitted: dict[str, Any], asked: bool) -> RunStatus:
    """Return the status of a run whose job is not in SLURM's queue."""
    job = submitted["job"]
    if asked:
        return RunStatus("interrupted" if state else "failed", f"job {job} ended: {last_line(submitted['log'])}")
    if not state:
        return RunStatus("queued", f"job {job}, unless it has ended: there is no SLURM here to ask")
    return RunStatus("interrupted", f"{state.get('error', 'it was killed')}; job {job}")


def run_statuses(runs: Sequence[HasFolder]) -> list[RunStatus]:
    """Return the status of each run. SLURM is asked once, if any run was given to it."""
    submitted = any((run.folder / "job.json").exists() for run in runs)
    queue = slurm.queue() if submitted else None
    return [run_status(run, queue) for run in runs]


def progress(run: HasFolder) -> str:
    """Return how many epochs a run has done."""
    try:
        rows = read_metrics(run.folder)
    except UserError:
        return "metrics.csv cannot be read"
    if "fit" not in (run.cfg.get("stages") or []):
        return "no epochs"
    done = int(rows[-1]["epoch"]) + 1 if rows else 0
    total = (run.cfg.get("schedule") or {}).get("max_epochs")
    return f"epoch {done}" + (f" of {total}" if total else "")


def last_line(log: str) -> str:
    """Return the last line of a job's log, and the log's place."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, Path(log).stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{lines[-1].strip() if lines else 'it printed nothing'} ({log})"


def count_states(statuses: Sequence[RunStatus]) -> str:
    """Return the number of runs in each state, such as `90 finished, 10 missing`."""
    counts = Counter(s.state for s in statuses)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
