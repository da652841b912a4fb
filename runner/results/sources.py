"""Where the runs of a table are looked up by their addresses: in the outputs here, or at Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.loggers import wandb_key_is_set, wandb_mode
from runner.execution.provenance import is_stale
from runner.execution.record import read_metrics, read_result
from runner.results.reductions import Outcome, Rows
from runner.sweeps.run_status import run_status

OUTPUTS = "outputs"
Found = tuple[str, Outcome | None]  # a run's state, of survey.STATES, and what it gave if it is finished

# W&B's states. Stopped from outside is `killed`, a machine that went away `crashed`: both go on when asked again.
WANDB_STATES = {"finished": "finished", "failed": "failed", "running": "running"}
NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # as W&B's JSON has them


def look_up(source: str, runs: Sequence[Run], curve: str | None) -> list[Found]:
    """What is known of every run. source: `outputs`, or `wandb:<entity>/<project>`.

    curve: the metric that is wanted of every epoch, if one is. Raises UserError where the source is none or cannot
    be read.
    """
    if source == OUTPUTS:
        return [on_disk(run) for run in runs]
    kind, _, project = source.partition(":")
    if kind != "wandb" or len(project.split("/")) != 2 or not all(project.split("/")):
        raise UserError(f"source={source} is unknown; choose from outputs, wandb:<entity>/<project>")
    return on_wandb(project, runs, curve)


def on_disk(run: Run) -> Found:
    result = read_result(run.folder)
    if result is None:
        return run_status(run).state, None
    state = "stale" if is_stale(result) else "finished"
    return state, Outcome(result["metrics"], read_metrics(run.folder), run.identity)


def on_wandb(project: str, runs: Sequence[Run], curve: str | None) -> list[Found]:
    """From W&B's public API, where a run has the id that it has here: final metrics from its summary, epochs from its
    history. (Tried against a server that answers as the client expects, never yet against W&B's own.)
    """
    wandb_mode()  # quietens it, also while it is imported
    if not wandb_key_is_set():
        raise UserError(
            "source=wandb needs a key: `wandb login`, or WANDB_API_KEY. Without source= the outputs are read."
        )
    import wandb
    from wandb.errors import Error

    found: dict[str, Found] = {}
    identities = {run.id: run.identity for run in runs}
    try:
        for remote in wandb.Api().runs(project, {"name": {"$in": list(identities)}}, per_page=100, lazy=False):
            state = WANDB_STATES.get(remote.state, "interrupted")
            outcome = None
            if state == "finished":
                rows = _epochs(remote, curve) if curve else []
                outcome = Outcome(_numbers(remote.summary_metrics), rows, identities[remote.id])
            found[remote.id] = state, outcome
    except (Error, ValueError) as error:
        raise UserError(
            f"cannot read {project} from W&B: {error}\n"
            "Is the address right (WANDB_BASE_URL), can it be reached, and may this key read <entity>/<project>? "
            "Without source= the outputs are read."
        ) from error
    return [found.get(run.id, ("missing", None)) for run in runs]


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a row, without what W&B adds to it (figures, names that begin with _)."""
    return {
        name: float(value)
        for name, value in row.items()
        if not name.startswith("_") and (type(value) in (int, float) or value in NOT_FINITE)
    }


def _epochs(remote: Any, metric: str) -> Rows:
    """The metric of every epoch. An epoch that a resumed run repeated counts as it came out last.

    Raises UserError where epochs are missing: W&B thins out long histories.
    """
    lines = remote.history(samples=remote.historyLineCount or 1, keys=["epoch", metric], pandas=False)
    epochs = {line["epoch"]: _numbers(line) for line in sorted(lines, key=lambda line: line["_step"])}
    if sorted(epochs) != list(range(len(epochs))):
        raise UserError(f"W&B has only {len(epochs)} epochs of {metric} of run {remote.id}; read the outputs instead")
    return [epochs[epoch] for epoch in sorted(epochs)]
