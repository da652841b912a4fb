"""What goes wrong on real machines: nothing finished is lost, nothing half-written counts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runner.errors import UserError
from runner.execution import record
from runner.execution.record import read_metrics
from runner.files import read_json

ROOT = Path(__file__).resolve().parents[2]


def only_run(outputs: Path) -> Path:
    (folder,) = (path.parent for path in outputs.glob("*/*/*/.lock"))
    return folder


def metrics_of(folder: Path) -> dict[str, float]:
    return read_json(folder / "result.json")["metrics"]


def wait_for(true, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("content", ["", '{"metrics": {"test/acc"', "\0" * 100, "[]", "{}"])
def test_an_unreadable_result_does_not_count(call, tiny, tmp_path, content) -> None:
    call(*tiny)
    folder = only_run(tmp_path)
    metrics = metrics_of(folder)
    (folder / "result.json").write_text(content)
    code, printed = call(*tiny)  # tests the last epoch's weights anew
    assert code == 0, printed
    assert "  finished" not in printed
    assert metrics_of(folder) == metrics


@pytest.mark.parametrize("damage", [{"seconds": None}, {"code": []}, {"metrics": 5}])
def test_a_result_that_was_edited_into_something_else_does_not_count(tmp_path, damage) -> None:
    from runner.status import unfinished_runs

    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    result = {"metrics": {}, "seconds": {"fit": 1.0}, "code": {}}
    (folder / "result.json").write_text(json.dumps(result))
    record.write_state(folder, "failed", error="e")
    assert record.read_result(folder) == result
    assert not unfinished_runs([f"paths.outputs={tmp_path}"])
    (folder / "result.json").write_text(json.dumps(result | damage))
    assert record.read_result(folder) is None
    assert [run.folder for run in unfinished_runs([f"paths.outputs={tmp_path}"])] == [folder]


def test_a_job_that_cannot_be_requeued_keeps_why_its_run_ended(tmp_path, monkeypatch, caplog) -> None:
    from runner import main
    from runner.config.address import Run
    from runner.errors import Preempted

    asked = []

    def fail(job: str) -> None:
        asked.append(job)
        raise subprocess.CalledProcessError(1, "scontrol")

    run = Run.compose(["method=graphnorm", "dataset=atlas", f"paths.outputs={tmp_path}"])
    run.folder.mkdir(parents=True)
    monkeypatch.setattr(main.slurm, "requeue", fail)
    error = Preempted("saved after epoch 3", "12")
    main.record_failure(run, error)
    main.record_failure(run, error)  # as of the run that needs it
    assert asked == ["12"]
    assert read_json(run.folder / "state.json")["error"] == "saved after epoch 3"
    assert "job 12 could not be requeued" in caplog.text


def test_a_checkpoint_that_is_cut_short_starts_the_run_anew(call, tiny, tmp_path) -> None:
    call(*tiny)
    folder = only_run(tmp_path)
    metrics = metrics_of(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    (folder / "result.json").unlink()
    code, printed = call(*tiny)
    assert code == 0, printed
    assert "last.ckpt is damaged or was not written by this run: the run starts anew" in printed
    assert metrics_of(folder) == metrics
    assert len(read_metrics(folder)) == 2


@pytest.mark.parametrize(
    "mistake",
    [
        ["method.lr=0"],
        ["needs.teacher=['method=graphnorm','dataset=atlas','method.lr=0']"],
        ["needs.teacher=['method=toy/student','dataset=atlas','method.lr=0']"],
        ["model.layers=0"],
    ],
)
def test_a_mistake_is_found_before_any_needed_run_is_trained(mistake, call, tiny, tmp_path) -> None:
    code, printed = call("--config-dir", str(ROOT / "tests/runner/conf"), *tiny[1:], "method=toy/student", *mistake)
    assert code == 2, printed
    assert "must be positive, got 0" in printed
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_needed_checkpoint_that_is_cut_short_is_made_anew(call, tiny, tmp_path) -> None:
    arguments = ["--config-dir", str(ROOT / "tests/runner/conf"), *tiny[1:], "method=toy/student"]
    assert call(*arguments)[0] == 0
    (checkpoint,) = (tmp_path / "graphnorm").glob("*/*/checkpoints/last.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    code, printed = call(*arguments, "seed=1")
    assert code == 0, printed
    assert "first, a run that this one needs" in printed


@pytest.mark.slow
def test_outputs_of_another_machine_go_on_here(spawn, call, tiny, tmp_path) -> None:
    here, moved = tmp_path / "here", tmp_path / "moved"
    long = [*tiny[:-2], "schedule.max_epochs=40", "checkpoint.every_seconds=0"]
    call(*long, f"paths.outputs={tmp_path / 'whole'}")
    process = spawn(*long, f"paths.outputs={here}")
    wait_for(lambda: any(len(read_metrics(path.parent)) > 5 for path in here.glob("*/*/*/metrics.csv")))
    process.kill()
    process.wait()
    here.rename(moved)
    folder = only_run(moved)
    state = read_json(folder / "state.json") | {"host": "elsewhere", "time": "2099-01-01 00:00:00+0000"}
    (folder / "state.json").write_text(json.dumps(state))
    for path in folder.rglob("*"):  # written by a clock that is ahead
        os.utime(path, (4e9, 4e9))
    code, printed = call(*long, f"paths.outputs={moved}")
    assert code == 0, printed
    assert metrics_of(folder) == metrics_of(only_run(tmp_path / "whole"))
    assert "\n  finished" in call(*long, f"paths.outputs={moved}")[1]


@pytest.mark.slow
def test_a_folder_of_another_user_is_read_and_not_written(call, tiny, tmp_path) -> None:
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv to give that up")
    call(*tiny)
    theirs = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for path in theirs:
        path.chmod(0o555)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    command = [*without, sys.executable, "-m", "runner", *tiny]
    plain = {"cwd": ROOT, "env": os.environ | {"HYDRA_FULL_ERROR": ""}, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, **plain)
        other = subprocess.run([*command, "seed=1"], **plain)
    finally:
        for path in theirs:
            path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "\n  finished" in done.stdout
    assert other.returncode == 2
    assert "Permission denied" in other.stderr
    assert "paths.outputs=<folder>" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system: {mount.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_half_written_counts(spawn, tiny, small_disk) -> None:
    arguments = [*tiny[:-1], f"paths.outputs={small_disk}"]
    filling = small_disk / "filling"
    filling.write_bytes(b"0" * (1000 * 1024))
    process = spawn(*arguments)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2, printed
    assert f"no space is left for {small_disk}" in printed
    assert not list(small_disk.rglob("result.json"))
    for state in small_disk.rglob("state.json"):
        assert read_json(state)["state"] == "failed"
    filling.unlink()
    process = spawn(*arguments)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed


@pytest.mark.slow
def test_a_tracker_that_dies_does_not_end_the_run(spawn, call, tiny, tmp_path, monkeypatch) -> None:
    long = [*tiny[:-2], "schedule.max_epochs=150"]
    call(*long, f"paths.outputs={tmp_path / 'whole'}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    process = spawn(*(o for o in long if o != "logger=csv"), f"paths.outputs={tmp_path / 'tracked'}")

    def trackers() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "wandb-core" in " ".join(child.cmdline())]

    rows = "tracked/*/*/*/metrics.csv"
    wait_for(lambda: any(read_metrics(path.parent) for path in tmp_path.glob(rows)) and trackers())
    for tracker in trackers():
        tracker.send_signal(signal.SIGKILL)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "W&B failed" in printed
    assert metrics_of(only_run(tmp_path / "tracked")) == metrics_of(only_run(tmp_path / "whole"))


@pytest.mark.slow
def test_needed_by_several_a_run_is_made_by_one_of_them_and_taken_over_when_it_is_killed(spawn, tiny, tmp_path) -> None:
    conf = ["--config-dir", str(ROOT / "tests/runner/conf")]
    needs = (
        "needs.teacher=['method=graphnorm','dataset=atlas','model.hidden=8','model.layers=2','schedule.max_epochs=60']"
    )
    students = [
        spawn(*conf, *tiny[1:], "method=toy/student", needs, f"seed={seed}", "checkpoint.every_seconds=0")
        for seed in range(3)
    ]

    def teacher() -> Path | None:
        return next((path.parent for path in tmp_path.glob("graphnorm/*/*/metrics.csv")), None)

    wait_for(lambda: teacher() and len(read_metrics(teacher())) > 5)
    holder = read_json(teacher() / "state.json")["pid"]
    os.kill(holder, signal.SIGKILL)
    killed = [student for student in students if student.pid == holder]
    assert len(killed) == 1
    for student in students:
        printed, _ = student.communicate(timeout=300)
        assert (student.returncode == 0) == (student not in killed), printed
    assert len(read_metrics(teacher())) == 60
    assert len(list(tmp_path.glob("graphnorm/*/*/result.json"))) == 1
    assert len(list(tmp_path.glob("toy/*/*/result.json"))) == 2


@pytest.mark.slow
def test_without_a_server_to_answer_a_run_is_tracked_offline(spawn, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    process = spawn(*(o for o in tiny if o != "logger=csv"))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "does not answer: runs are kept offline" in printed
    (tracked,) = tmp_path.glob("*/*/*/wandb/offline-run-*")
    assert tracked.name.endswith(only_run(tmp_path).name)


def test_a_state_is_written_over_the_old_one_where_no_space_is_left(tmp_path, monkeypatch) -> None:
    record.write_state(tmp_path, "running")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record, "write_json", full)
    record.write_state(tmp_path, "failed", error="e")
    state = read_json(tmp_path / "state.json")
    assert (state["state"], state["error"]) == ("failed", "e")


def test_metrics_that_are_no_numbers_name_the_file(call, tiny, tmp_path) -> None:
    call(*tiny)
    folder = only_run(tmp_path)
    (folder / "metrics.csv").write_text("epoch,step,train/acc\n0,1,0.5\n1,abc,0.5\n")
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read"):
        read_metrics(folder)
    (folder / "result.json").rename(folder / "before.json")
    record.write_state(folder, "interrupted")
    (folder / "config.yaml").write_text("seed: [1,\n  a: {")  # torn
    unfinished = subprocess.run(
        [sys.executable, "-m", "runner.status", f"paths.outputs={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert unfinished.returncode == 0, unfinished.stderr
    assert "interrupted" in unfinished.stdout


def test_epochs_and_steps_stay_whole_numbers(call, tiny, tmp_path) -> None:
    call(*tiny)
    folder = only_run(tmp_path)
    assert all(isinstance(row[name], int) for row in read_metrics(folder) for name in ("epoch", "step"))
    (folder / "result.json").unlink()
    code, printed = call(*tiny, "schedule.max_epochs=2")
    assert code == 0, printed
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1"]
