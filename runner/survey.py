"""How the runs of a sweep stand, for tables and figures."""

from __future__ import annotations

from omegaconf import OmegaConf

from runner.address import Run
from runner.errors import UserError
from runner.files import read_json
from runner.record import read_result

STATES = ("finished", "stale", "failed", "unfinished", "not started")


def state_of(run: Run) -> str:
    """`finished`, `failed`, `unfinished` (under way, or interrupted) or `not started`."""
    if read_result(run.folder) is not None:
        return "finished"
    state = read_json(run.folder / "state.json")
    return "not started" if state is None else {"failed": "failed"}.get(state["state"], "unfinished")


def value_of(run: Run, key: str) -> str:
    """What a run chose for a config group, or its value of any other key. Raises UserError where it has none."""
    value = run.choices.get(key) or OmegaConf.select(run.cfg, key)
    if value is None:
        raise UserError(f"the sweep's runs are told apart by '{key}', which is not in their config")
    return str(value)
