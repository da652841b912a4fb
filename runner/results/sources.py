"""Look up the runs of a table by their addresses: on disk or at Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.provenance import is_stale
from runner.execution.record import read_metrics, read_result
from runner.results.numerics import fingerprint
from runner.results.reductions import Measurements, Rows
from runner.sweeps.run_status import run_status

OUTPUTS = "outputs"

# W&B's states. A run that was stopped from outside is `killed`, one whose machine went away `crashed`: both continue
# when the same command is given again.
WANDB_STATES = {"finished": "finished", "failed": "failed", "running": "running"}
NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # as they stand in W&B's JSON


@dataclass(frozen=True)
class RunOutcome:
    """State of a run, and its measurements if it is finished.

    Args:
        state: one of run_status.STATES.
        finished: measurements, or None.
    """

    state: str
    finished: Measurements | None = None


def look_up(source: str, runs: Sequence[Run], curve: str | None) -> list[RunOutcome]:
    """Return the outcome of each run.

    Args:
        source: `outputs`, or `wandb:<entity>/<project>`.
        runs: runs to look up.
        curve: metric to read for each epoch, or None if only final metrics are needed.

    Raises:
        UserError: the source is unknown or cannot be read.
    """
    if source == OUTPUTS:
        return [read_outcome(run) for run in runs]
    kind, _, project = source.partition(":")
    if kind != "wandb" or len(project.split("/")) != 2 or not all(project.split("/")):
        raise UserError(f"source={source} is unknown; choose from outputs, wandb:<entity>/<project>")
    return read_from_wandb(project, runs, curve)


def read_outcome(run: Run) -> RunOutcome:
    """Return the outcome of a run by the files in its folder."""
    result = read_result(run.folder)
    if result is None:
        return RunOutcome(run_status(run).state)
    metrics = _numbers(result["metrics"]) if isinstance(result["metrics"], dict) else {}
    rows, damage = read_rows(run.folder)
    finished = Measurements(metrics, rows, run.identity, fingerprint(result), _commit(result), damage)
    return RunOutcome("stale" if is_stale(result) else "finished", finished)


def read_rows(folder: Path) -> tuple[Rows, str]:
    """Return the rows of metrics.csv, and why they could not be read; empty rows or an empty text."""
    try:
        return read_metrics(folder), ""
    except UserError as error:
        return [], str(error).splitlines()[0]


def _commit(result: Mapping[str, Any]) -> str:
    git = result.get("git") or {}
    return str(git["commit"])[:12] + ("+" if git.get("dirty") else "") if git.get("commit") else ""


def read_from_wandb(project: str, runs: Sequence[Run], curve: str | None) -> list[RunOutcome]:
    """Read the outcomes from W&B's public API, where each run has the id that it has here.

    Final metrics come from W&B's summary, epochs from its history. This was tested against a server that answers as
    W&B's client expects, never against W&B's own.

    Args:
        project: `<entity>/<project>`.
        runs: runs to look up.
        curve: metric to read for each epoch, or None.

    Raises:
        UserError: there is no key, the server cannot be reached, or the project cannot be read.
    """
    from runner.execution.loggers import wandb_key_is_set, wandb_mode

    wandb_mode()  # silences W&B, also while it is imported
    if not wandb_key_is_set():
        raise UserError(
            "source=wandb needs a key: `wandb login`, or WANDB_API_KEY. Without source= the outputs are read."
        )
    import wandb
    from wandb.errors import Error

    outcomes: dict[str, RunOutcome] = {}
    identities = {run.id: run.identity for run in runs}
    try:
        for remote in wandb.Api().runs(project, {"name": {"$in": list(identities)}}, per_page=100, lazy=False):
            outcomes[remote.id] = _outcome_on_wandb(remote, identities[remote.id], curve)
    except (Error, ValueError) as error:
        raise UserError(
            f"cannot read {project} from W&B: {error}\n"
            "Check the address (WANDB_BASE_URL), the network, and that this key may read <entity>/<project>. "
            "Without source= the outputs are read."
        ) from error
    return [outcomes.get(run.id, RunOutcome("missing")) for run in runs]


def _outcome_on_wandb(remote: Any, identity: dict[str, Any], curve: str | None) -> RunOutcome:
    state = WANDB_STATES.get(remote.state, "interrupted")
    if state != "finished":
        return RunOutcome(state)
    rows = _epochs_on_wandb(remote, curve) if curve else []
    return RunOutcome(state, Measurements(_numbers(remote.summary_metrics), rows, identity))


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numeric entries of a row, without W&B's own, whose names begin with an underscore."""
    return {
        name: float(value)
        for name, value in row.items()
        if not name.startswith("_") and (type(value) in (int, float) or value in NOT_FINITE)
    }


def _epochs_on_wandb(remote: Any, metric: str) -> Rows:
    """Return the metric of each epoch. Of an epoch that a resumed run repeated, the last value counts.

    Raises:
        UserError: epochs are missing, since W&B samples long histories.
    """
    lines = remote.history(samples=remote.historyLineCount or 1, keys=["epoch", metric], pandas=False)
    epochs = {line["epoch"]: _numbers(line) for line in sorted(lines, key=lambda line: line["_step"])}
    if sorted(epochs) != list(range(len(epochs))):
        raise UserError(f"W&B has only {len(epochs)} epochs of {metric} of run {remote.id}; read the outputs instead")
    return [epochs[epoch] for epoch in sorted(epochs)]
