"""Runs that are killed, and runs that two processes ask for at once."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from runner.execution.record import read_metrics, read_result
from runner.files import read_json
from tests.runner.conftest import wait_for_epochs

pytestmark = pytest.mark.slow
EPOCHS = 30


def overrides(outputs: Path) -> list[str]:
    return [
        *("method=graphnorm", "dataset=atlas", "logger=csv", f"schedule.max_epochs={EPOCHS}"),
        *("dataset.protocol=fair", "method.monitor=val/acc", "checkpoint.every_seconds=0", f"paths.outputs={outputs}"),
    ]


def small(outputs: Path) -> list[str]:
    return [*overrides(outputs), "model.hidden=16", "model.layers=2"]


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def without_seconds(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_killed_run_goes_on_to_the_same_numbers(spawn, tmp_path) -> None:
    finish(spawn(*small(tmp_path / "whole")))
    (whole,) = (tmp_path / "whole").glob("*/*/*")

    outputs = tmp_path / "killed"
    process = spawn(*small(outputs))
    folder = wait_for_epochs(outputs, process, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_result(folder) is None
    process = spawn(*small(outputs))
    wait_for_epochs(outputs, process, 12)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert read_result(folder) is None
    assert '"interrupted"' in (folder / "state.json").read_text()
    finish(spawn(*small(outputs)))

    assert read_result(folder)["metrics"] == read_result(whole)["metrics"]
    assert without_seconds(read_metrics(folder)) == without_seconds(read_metrics(whole))
    assert len(read_metrics(folder)) == EPOCHS
    assert not (folder / "state.json").exists()


def test_ctrl_c_saves_the_epoch_and_says_so(spawn, tmp_path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job passes on that it is ignored
    run = [*overrides(tmp_path), "checkpoint.every_seconds=1000", "schedule.max_epochs=400"]
    process = spawn(*run)
    folder = wait_for_epochs(tmp_path, process, 3)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, printed
    assert "stops after this epoch" in printed
    assert printed.endswith("stopped; the same command continues\n")
    assert "Traceback" not in printed
    state = read_json(folder / "state.json")
    assert (state["state"], state["error"]) == ("interrupted", "stopped by Ctrl-C")
    done = len(read_metrics(folder))
    process = spawn(*run)
    wait_for_epochs(tmp_path, process, done + 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, printed
    assert f"continues after epoch {done}" in printed


def test_two_processes_that_ask_for_the_same_run(spawn, tmp_path) -> None:
    first = spawn(*overrides(tmp_path))
    folder = wait_for_epochs(tmp_path, first, 1)
    second, third = spawn(*overrides(tmp_path)), spawn(*overrides(tmp_path), "wait=false")
    printed, _ = third.communicate(timeout=300)
    assert third.returncode == 2
    assert f"process {first.pid} on" in printed
    finish(first)
    printed = finish(second)
    assert "waiting for it" in printed
    assert "\n  finished" in printed
    assert len(read_metrics(folder)) == EPOCHS


def test_the_next_process_takes_over_when_the_first_is_killed(spawn, tmp_path) -> None:
    first = spawn(*overrides(tmp_path))
    folder = wait_for_epochs(tmp_path, first, 3)
    second = spawn(*overrides(tmp_path))
    time.sleep(3)
    first.kill()
    finish(second)
    assert len(read_metrics(folder)) == EPOCHS
    assert read_result(folder)


def test_sigterm_ends_work_of_the_test_stage_at_once(spawn, tmp_path) -> None:
    epochs = "method.stages.prune_magnitude.recipe.epochs=100000"
    run = ["method=compression/prune_magnitude", "dataset=digits", "model=smallcnn", "vars.dense.epochs=1", epochs]
    process = spawn(*run, "logger=csv", f"paths.outputs={tmp_path}")
    deadline, log = time.monotonic() + 120, ""
    while "round 1/1: epoch" not in log:  # logged every 10 seconds
        assert process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.2)
        log = "".join(path.read_text() for path in tmp_path.glob("*/prune_magnitude-*/*/run.log"))
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    (state,) = tmp_path.glob("*/prune_magnitude-*/*/state.json")
    assert read_json(state)["state"] == "interrupted"
    assert read_json(state)["error"] == "stopped by SIGTERM"
