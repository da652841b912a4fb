"""How the tests call the runner: its real entry point, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.execution.record import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = ("method=graphnorm", "dataset=atlas", "logger=csv", "model.hidden=8", "model.layers=2", "schedule.max_epochs=2")


def wait_for_epochs(outputs: Path, process: subprocess.Popen, epochs: int) -> Path:
    """The run's folder, once metrics.csv has that many rows."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        for folder in outputs.glob("*/*/*"):
            if len(read_metrics(folder)) >= epochs:
                return folder
        time.sleep(0.02)
    raise TimeoutError


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides of a run of a few seconds, its outputs in a folder of the test's own."""
    return [*TINY, f"paths.outputs={tmp_path}"]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """call(*arguments) -> exit code and everything printed by `python -m runner`, in this process."""

    def call(*arguments: str) -> tuple[int, str]:
        from runner.cli import main

        monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # undone after the test, though main sets it
        monkeypatch.setattr(sys, "argv", ["runner", *arguments])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen]:
    """spawn(*arguments) -> a running `python -m runner` process, its output in one pipe."""
    started = []

    def spawn(*arguments: str) -> subprocess.Popen:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        env.pop("HYDRA_FULL_ERROR", None)
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments],
            cwd=ROOT,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield spawn
    for process in started:
        process.kill()
        process.wait()
