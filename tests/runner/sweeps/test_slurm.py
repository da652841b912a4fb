"""Sweeps on a real SLURM: a cluster of this machine alone, made by scripts/slurm_cluster.sh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.execution.record import read_metrics, read_result

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "slurm_cluster.sh"
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[None]:
    """A SLURM cluster with two processors, which sbatch and the like find."""
    path = os.environ["PATH"] + ":/usr/sbin"
    lacking = [p for p in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(p, path=path) is None]
    if lacking:
        pytest.skip(f"no {lacking[0]} here: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    up = subprocess.run([SCRIPT, "up", folder], env=os.environ | {"CPUS": "2"}, capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PATH", path)
        yield
        subprocess.run([SCRIPT, "down", folder], check=True)
    assert not folder.exists()


@pytest.fixture
def slow_run(tmp_path) -> list[str]:
    """Overrides of a run of 100 epochs."""
    return [
        *("method=graphnorm", "dataset=atlas", "schedule.max_epochs=100", "checkpoint.every_seconds=3600"),
        *("dataset.protocol=fair", "method.monitor=val/acc", "seed=3", f"paths.outputs={tmp_path / 'outputs'}"),
    ]


def until(true: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def status(*overrides: str) -> str:
    command = [sys.executable, "-m", "runner.status", *overrides]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_an_array_is_submitted_and_only_what_is_missing_again(cluster, spawn, tiny, tmp_path) -> None:
    sweep = [*tiny, "model.norm=graph,batch,nonsense", "wait=false"]
    printed, _ = (process := spawn("-m", *sweep, *LAUNCHER)).communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "3 runs: 3 missing" in printed
    assert "submitted as job" in printed
    (command,) = [line for line in printed.splitlines() if "python -m runner.status" in line]
    assert "hydra" not in command
    until(lambda: slurm("squeue", "--noheader") == "")
    shown = status(*sweep)
    assert "2 finished, 1 failed" in shown
    assert "nonsense  failed       model.norm=nonsense is unknown; choose from" in shown

    printed, _ = (process := spawn("-m", *sweep, *LAUNCHER, "wait=true")).communicate(timeout=300)
    assert "3 runs: 2 finished, 1 failed" in printed
    assert process.returncode == 2, printed
    jobs = {json.loads(path.read_text())["job"] for path in tmp_path.glob("*/*/*/job.json")}
    assert len({job.partition("_")[0] for job in jobs}) == 2  # the failed run alone went in again
    assert slurm("squeue", "--noheader") == ""


def test_a_run_that_is_ended_four_ways_comes_to_the_same_numbers(cluster, spawn, slow_run, tmp_path) -> None:
    process = spawn("-m", *slow_run, "logger=csv", f"paths.outputs={tmp_path / 'whole'}")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    (whole,) = (tmp_path / "whole").glob("graphnorm/*/*")

    process = spawn("-m", *slow_run, *LAUNCHER)
    outputs = tmp_path / "outputs"

    def epochs() -> int:
        return max((len(read_metrics(folder)) for folder in outputs.glob("graphnorm/*/*")), default=0)

    def requeued(times: int) -> None:
        """Waits for the restart of that number, and spares us most of the two minutes that SLURM waits before it.

        Not all: a node refuses a job ("credential revoked") that starts in the second in which it was ended.
        """
        until(lambda: f" Restarts={times} " in slurm("scontrol", "show", "job", job))
        until(lambda: "JobState=PENDING" in slurm("scontrol", "show", "job", job))
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now+5")

    until(lambda: epochs() >= 4)
    (folder,) = outputs.glob("graphnorm/*/*")
    job = json.loads((folder / "job.json").read_text())["job"]
    slurm("scancel", "--signal=USR2", job)  # as before the time limit
    requeued(1)
    saved = epochs()
    assert (folder / "checkpoints" / "last.ckpt").exists()
    until(lambda: epochs() > saved + 3)
    slurm("scontrol", "requeue", job)
    requeued(2)
    again = epochs()
    assert again > saved  # it was saved at the signal, though a checkpoint was not due
    until(lambda: epochs() > again + 3)
    slurm("srun", "--partition=urgent", "--ntasks=2", "true")  # preempts it
    requeued(3)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed

    def comparable(folder: Path) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]

    assert read_result(folder)["metrics"] == read_result(whole)["metrics"]
    assert comparable(folder) == comparable(whole)
    tracked = {path.name.rpartition("-")[2] for path in folder.glob("wandb/offline-run-*")}
    assert tracked == {folder.name}  # one W&B run, by its id


def test_two_tasks_of_a_job_are_one_run(cluster, spawn, tiny, tmp_path) -> None:
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "hydra.launcher.tasks_per_node=2"]
    process = spawn("-m", *tiny, "seed=0", *ddp, *LAUNCHER)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    (folder,) = tmp_path.glob("graphnorm/*/*")
    assert read_result(folder)["processes"] == 2
    assert [row["epoch"] for row in read_metrics(folder)] == [0, 1]
    assert (folder / "run.log").read_text().count(" on cpu: ") == 1


def test_jobs_that_leave_nothing_are_told_with_the_end_of_their_log(cluster, spawn, slow_run, tiny, tmp_path) -> None:
    setup = "hydra.launcher.setup=['echo no such module >&2; exit 3']"
    process = spawn("-m", *tiny, "seed=0", *LAUNCHER, setup)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1, printed
    assert "failed: job " in printed
    assert "ended: no such module (" in printed

    process = spawn("-m", *slow_run, "logger=csv", *LAUNCHER)
    until(lambda: any(len(read_metrics(folder)) > 2 for folder in tmp_path.glob("outputs/graphnorm/*/*")))
    (job,) = [json.loads(path.read_text())["job"] for path in tmp_path.glob("outputs/graphnorm/*/*/job.json")]
    slurm("scancel", job)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1, printed
    assert "1 interrupted" in printed


def test_a_search_keeps_jobs_in_the_queue(cluster, spawn, tiny, tmp_path) -> None:
    pytest.importorskip("optuna")
    space = "method.lr=tag(log,interval(1e-3,1e-1))"
    search = ["hydra/sweeper=optuna", "optimize=val/acc", "trials=3", "parallel=2", space]
    printed, _ = (process := spawn("-m", *tiny, *search, *LAUNCHER)).communicate(timeout=600)
    assert process.returncode == 0, printed
    assert printed.count("submitted as job") >= 2  # two at once, then one more
    assert "3 finished trials" in printed
    (folder,) = tmp_path.glob("searches/graphnorm/*")
    best = json.loads((folder / "search.json").read_text())["best"][0]
    assert read_result(Path(best["folder"])) is not None
