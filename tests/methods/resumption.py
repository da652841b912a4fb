"""A run that is killed, beside one that is not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner.execution.record import read_metrics, read_result
from tests.runner.conftest import wait_for_epochs


def check_killed_run_goes_on(call: Callable, spawn: Callable, outputs: Path, run: Sequence[str], epochs: int) -> None:
    """Asserts that a run which is killed after so many epochs, and asked for again, has the numbers of a whole one."""
    run = [*run, "checkpoint.every_seconds=0"]
    assert call(*run, f"paths.outputs={outputs}/whole")[0] == 0
    process = spawn(*run, f"paths.outputs={outputs}/killed")
    folder = wait_for_epochs(outputs / "killed", process, epochs)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_result(folder) is None
    code, printed = call(*run, f"paths.outputs={outputs}/killed")
    assert code == 0, printed
    (whole,) = (outputs / "whole").glob(f"*/{folder.parent.name}/*")
    assert _untimed(read_result(folder)["metrics"]) == _untimed(read_result(whole)["metrics"])
    assert _rows(folder) == _rows(whole)


def _untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_metrics(folder)]
