"""How the runs of a sweep stand, for the sweep itself, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from runner import slurm
from runner.address import Run
from runner.errors import UserError
from runner.exclusive import is_held
from runner.files import read_json
from runner.record import read_metrics, read_result

STATES = ("finished", "stale", "running", "queued", "interrupted", "failed", "missing")
UNDER_WAY = ("running", "queued")


class Place(Protocol):
    """A run, or what is left of one: its folder and its config."""

    @property
    def folder(self) -> Path: ...
    @property
    def cfg(self) -> DictConfig: ...


@dataclass(frozen=True)
class Standing:
    """state: one of STATES; detail: a line for people; mistake: it failed by a mistake of the user's."""

    state: str
    detail: str = ""
    mistake: bool = False


def standing(run: Place, queue: dict[str, str] | None = None) -> Standing:
    """How a run stands. queue: `slurm.queue()`; without it a job is not looked for."""
    folder = run.folder
    if (result := read_result(folder)) is not None:
        return Standing("finished", f"{sum(result['seconds'].values()):.0f} s")
    state, submitted = read_json(folder / "state.json"), read_json(folder / "job.json")
    job = submitted["job"] if submitted else None
    here = f"job {job}, " if job else ""
    told = state["state"] if state else None
    if job and queue and queue.get(job) in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"):
        return Standing("queued", f"{here}{progress(run)}")
    if job and queue and job in queue:
        return Standing("running", f"{here}{progress(run)}")
    if state and told == "running" and is_held(folder):
        return Standing("running", f"{here}process {state.get('pid')} on {state.get('host')}, {progress(run)}")
    if state and told == "failed":
        return Standing("failed", state.get("error", ""), state.get("mistake", False))
    if job and queue is not None and submitted:
        return Standing("interrupted" if state else "failed", f"job {job} ended: {last_line(submitted['log'])}")
    if job and not state:
        return Standing("queued", f"job {job}, unless it has ended: there is no SLURM here to ask")
    if state:
        return Standing("interrupted", f"{state.get('error', 'it was killed')}; {progress(run)}")
    return Standing("missing")


def survey(runs: Sequence[Place]) -> list[Standing]:
    """How each run stands; SLURM is asked once, if any run was given to it."""
    asked = any((run.folder / "job.json").exists() for run in runs)
    queue = slurm.queue() if asked else None
    return [standing(run, queue) for run in runs]


def state_of(run: Place) -> str:
    """The state of a run, as `standing` has it, without asking SLURM."""
    return standing(run).state


def progress(run: Place) -> str:
    """How far its epochs are."""
    rows = read_metrics(run.folder)
    done = int(rows[-1]["epoch"]) + 1 if rows else 0
    most = run.cfg.schedule.get("max_epochs")
    return f"epoch {done}" + (f" of {most}" if most else "") if "fit" in run.cfg.stages else "no epochs"


def last_line(log: str) -> str:
    """Of a job's log, and where the rest is."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, Path(log).stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{lines[-1].strip() if lines else 'it said nothing'} ({log})"


def names(value: str | list[str]) -> tuple[str, ...]:
    """The keys that tell runs apart: one or several, as they stand in YAML."""
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def choice_of(run: Run, key: str) -> Any:
    """What a run chose for a config group, or its value of any other key."""
    return run.choices.get(key) or OmegaConf.select(run.cfg, key)


def value_of(run: Run, key: str) -> str:
    """`choice_of` as text. Raises UserError where there is none."""
    value = choice_of(run, key)
    if value is None:
        raise UserError(f"the sweep's runs are told apart by '{key}', which is not in their config")
    return str(value)
