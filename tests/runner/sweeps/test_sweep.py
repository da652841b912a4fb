"""Sweeps through worker processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.execution.record import read_metrics, read_result
from runner.files import read_json
from runner.sweeps.sweep import Report

ROOT = Path(__file__).resolve().parents[3]


def results(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("*/*/*/result.json"))


@pytest.mark.slow
def test_a_failed_run_fails_alone(call, tiny, tmp_path) -> None:
    code, printed = call("-m", *tiny, "model.norm=graph,nonsense,batch")
    assert code == 2
    assert "3 runs: 2 finished, 1 failed" in printed
    assert "model.norm=nonsense: failed: model.norm=nonsense is unknown" in printed
    assert len(results(tmp_path)) == 2
    (place,) = tmp_path.glob(".sweeps/*")
    assert (place / "command.txt").read_text().startswith("python -m runner -m method=graphnorm")


@pytest.mark.slow
def test_what_is_finished_starts_nothing(call, tiny, tmp_path) -> None:
    assert call("-m", *tiny, "seed=0,1")[0] == 0
    written = [path.stat().st_mtime_ns for path in results(tmp_path)]
    code, printed = call("-m", *tiny, "seed=0,1", "hydra/launcher=local")
    assert code == 0
    assert "2 runs: 2 finished" in printed
    assert [path.stat().st_mtime_ns for path in results(tmp_path)] == written
    assert len(list(tmp_path.glob(".sweeps/*"))) == 1
    code, printed = call("-m", *tiny, "seed=0,1", "rerun=true")
    assert code == 0
    assert all(path.stat().st_mtime_ns > old for path, old in zip(results(tmp_path), written, strict=True))


@pytest.mark.slow
def test_smoke_runs_of_a_sweep_run_each_time(call, tiny, tmp_path) -> None:
    assert call("-m", *tiny, "smoke=true")[0] == 0
    (path,) = (tmp_path / ".smoke").glob("*/*/*/result.json")
    before = path.stat().st_mtime_ns
    assert call("-m", *tiny, "smoke=true")[0] == 0
    assert path.stat().st_mtime_ns != before


@pytest.mark.slow
def test_a_sweep_gives_what_single_runs_give(call, tiny, tmp_path) -> None:
    call("-m", *tiny, "seed=0,1", "hydra/launcher=local", "hydra.launcher.workers=2")
    call(*tiny, "seed=1", f"paths.outputs={tmp_path / 'single'}")
    (single,) = results(tmp_path / "single")
    swept = tmp_path / single.relative_to(tmp_path / "single")
    assert read_json(single)["metrics"] == read_json(swept)["metrics"]


@pytest.mark.slow
def test_cells_that_are_the_same_run_are_run_once(call, tiny, tmp_path) -> None:
    code, printed = call("-m", *tiny, "loader.workers=0,0", "threads=1,2")
    assert code == 0
    assert "1 runs: 1 missing" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["hydra/launcher=basic"], ["hydra/launcher must be ", "local, serial, slurm"]),
        (["--info", "defaults"], ["a sweep takes overrides, and not --info"]),
        (["dataset=nonsense,atlas"], ["there is no dataset=nonsense; choose from atlas, "]),
        (["model.nonsense=1,2"], ["model.nonsense"]),
    ],
)
def test_a_mistake_in_the_sweep_starts_nothing(call, tiny, tmp_path, arguments, expected) -> None:
    code, printed = call("-m", *tiny, *arguments)
    assert code == 2
    assert all(words in printed for words in expected), printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("state.json"))


def test_without_slurm_its_launcher_is_refused(call, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, printed = call("-m", *tiny, "hydra/launcher=slurm", "seed=0,1")
    assert code == 2
    assert "no sbatch and srun on this machine" in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("state.json"))


def wait_for_epochs(outputs: Path, runs: int, epochs: int) -> list[Path]:
    """The folders of so many runs that have come so far."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        far = [path.parent for path in outputs.glob("*/*/*/metrics.csv") if len(read_metrics(path.parent)) >= epochs]
        if len(far) >= runs:
            return far
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_its_run_alone(spawn, tiny, tmp_path) -> None:
    long = [argument.replace("max_epochs=2", "max_epochs=60") for argument in tiny]
    process = spawn("-m", *long, "seed=0,1,2", "hydra/launcher=local", "hydra.launcher.workers=2")
    folder, other = wait_for_epochs(tmp_path, 2, 2)
    os.kill(read_json(folder / "state.json")["pid"], signal.SIGKILL)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1, printed
    assert "3 runs: 2 finished, 1 interrupted" in printed
    assert f"interrupted: it was killed; epoch {len(read_metrics(folder))} of 60\n    {folder}" in printed
    assert read_result(other)
    assert len(list(tmp_path.glob(".sweeps/*/worker*.log"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_ended_ends_its_workers(spawn, tiny, tmp_path, ended_by) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job passes on that it is ignored
    long = [argument.replace("max_epochs=2", "max_epochs=400") for argument in tiny]
    process = spawn("-m", *long, "seed=0,1", "hydra/launcher=local", "hydra.launcher.workers=2")
    folders = wait_for_epochs(tmp_path, 2, 1)
    pids = [read_json(folder / "state.json")["pid"] for folder in folders]
    process.send_signal(ended_by)
    process.communicate(timeout=60)
    assert process.returncode == 128 + ended_by
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    assert not results(tmp_path)


@pytest.mark.slow
def test_status_tells_each_run(call, tiny, tmp_path) -> None:
    call("-m", *tiny, "model.norm=graph,nonsense")

    def status(*overrides: str) -> str:
        command = [sys.executable, "-m", "runner.status", *overrides]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    lines = status(*tiny, "model.norm=graph,nonsense,batch").splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["model.norm=graph", "finished"],
        ["model.norm=nonsense", "failed"],
        ["model.norm=batch", "missing"],
    ]
    assert "is unknown; choose from none, batch" in lines[1]
    assert lines[3] == "3 runs: 1 finished, 1 failed, 1 missing"

    lines = status(f"paths.outputs={tmp_path}").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("graphnorm/graphnorm-atlas-gin/")
    assert lines[1] == "1 runs: 1 failed"
    (state,) = tmp_path.glob("*/*/*/state.json")
    state.write_text(json.dumps(read_json(state) | {"state": "running"}))  # as a killed process leaves it
    assert "interrupted" in status(f"paths.outputs={tmp_path}")


def test_the_time_left_does_not_count_the_start_of_the_first_run() -> None:
    report = Report(11)
    report.started = 0.0
    report.done = 1
    assert report.minutes_left(120.0) == pytest.approx(20.0)  # all that is known: 2 minutes a run
    report.done = 3
    assert report.minutes_left(240.0) == pytest.approx(8.0)  # a minute a run after the first


@pytest.mark.slow
@pytest.mark.parametrize("flag", [["--config-dir", "{}"], ["--config-dir={}"]])
def test_a_folder_of_configs_of_ones_own_works_in_a_sweep(call, tiny, tmp_path, flag) -> None:
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\n# mine\nsweep: {seed: [0, 1]}\n")
    given = [part.format(folder) for part in flag]
    code, printed = call("-m", *given, *tiny, "experiment=mine")
    assert code == 0, printed
    assert "2 runs: 2 finished" in printed
    code, printed = call("-m", "--config-dir", str(tmp_path / "absent"), *tiny)
    assert code == 2
    assert "there is no such folder" in printed
