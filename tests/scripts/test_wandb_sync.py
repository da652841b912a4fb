"""Real offline runs, uploaded by W&B's own client to a server on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from filelock import FileLock

pytestmark = pytest.mark.slow

SYNC = "scripts/wandb_sync.sh"
WRITE = textwrap.dedent("""
    import os, signal, sys, wandb
    folder, first, last, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    run = wandb.init(project="runner", id=folder.split("/")[-1], resume="allow", mode="offline", dir=folder)
    for epoch in range(first, last):
        run.log({"epoch": epoch})
    if end == "killed":
        import time
        time.sleep(2)  # what is logged is written by another process
        os.killpg(0, signal.SIGKILL)
    run.finish()
""")


def write(outputs: Path, name: str, first: int = 0, last: int = 3, end: str = "finished") -> Path:
    """Record a W&B run offline in a folder as the runner has them, with the epochs first..last-1."""
    folder = outputs / "paper" / "method-data-model" / name
    folder.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"WANDB_SILENT": "true"}
    command = [sys.executable, "-c", WRITE, str(folder), str(first), str(last), end]
    process = subprocess.run(command, env=env, start_new_session=True, timeout=60)
    assert process.returncode == (-signal.SIGKILL if end == "killed" else 0)
    return folder


def epochs(server, run: str) -> list[int]:
    return [row["epoch"] for row in server.history(run)]


def test_uploads_each_run_once_and_goes_on_after_a_failure(server, program, tmp_path) -> None:
    for name in ("aaa", "bbb"):
        write(tmp_path, name)
    server.refuses = {"aaa"}
    first = program(SYNC, str(tmp_path), **server.environment())
    assert first.returncode == 1
    assert "uploaded: 1, uploaded before: 0, under way or killed: 0, failed: 1" in first.stdout
    assert "method-data-model/aaa/wandb/offline-run-" in first.stderr.splitlines()[-1]
    assert epochs(server, "bbb") == [0, 1, 2]
    server.refuses = set()
    second = program(SYNC, str(tmp_path), **server.environment())
    assert second.returncode == 0
    assert "uploaded: 1, uploaded before: 1," in second.stdout
    assert epochs(server, "aaa") == [0, 1, 2]
    asked = server.requests
    third = program(SYNC, str(tmp_path), **server.environment())
    assert third.returncode == 0
    assert "uploaded: 0, uploaded before: 2," in third.stdout
    assert server.requests == asked


def test_a_resumed_run_is_appended_in_order(server, program, tmp_path) -> None:
    write(tmp_path, "aaa", 0, 3)
    write(tmp_path, "aaa", 3, 5)
    assert program(SYNC, str(tmp_path), **server.environment()).returncode == 0
    assert epochs(server, "aaa") == [0, 1, 2, 3, 4]
    write(tmp_path, "aaa", 5, 7)
    assert program(SYNC, str(tmp_path), **server.environment()).returncode == 0
    assert epochs(server, "aaa") == list(range(7))
    assert [row["_step"] for row in server.history("aaa")] == list(range(7))


def test_what_a_killed_run_has_written_comes_first(server, program, tmp_path) -> None:
    """The file ends in the middle of a record, which W&B takes for a run under way."""
    folder = write(tmp_path, "aaa", 0, 3000, end="killed")
    (folder / "state.json").write_text(json.dumps({"state": "running", "host": "x", "pid": 1}, indent=2) + "\n")
    waiting = program(SYNC, str(tmp_path), **server.environment())
    assert waiting.returncode == 0
    assert "uploaded: 0, uploaded before: 0, under way or killed: 1, failed: 0" in waiting.stdout
    assert not server.runs
    listed = program(SYNC, "--dry-run", "--all", str(tmp_path))
    assert "aaa/wandb/offline-run-" in listed.stdout
    assert "to upload: 1" in listed.stdout
    assert not server.runs
    done = program(SYNC, "--all", str(tmp_path), **server.environment())
    assert done.returncode == 0, done.stdout
    written = epochs(server, "aaa")
    assert len(written) > 1000
    (folder / "state.json").unlink()
    write(tmp_path, "aaa", 5000, 5002)
    assert program(SYNC, str(tmp_path), **server.environment()).returncode == 0
    assert epochs(server, "aaa") == [*range(len(written)), 5000, 5001]


def test_a_run_that_was_killed_and_resumed_arrives_in_one_call(server, program, tmp_path) -> None:
    write(tmp_path, "aaa", 0, 3, end="killed")  # too little for a file: W&B writes blocks
    write(tmp_path, "aaa", 0, 3000, end="killed")
    write(tmp_path, "aaa", 5000, 5002)
    write(tmp_path, "bbb", 0, 2)
    process = program(SYNC, str(tmp_path), **server.environment())
    assert process.returncode == 0, process.stdout
    assert "uploaded: 3, uploaded before: 0, under way or killed: 0, failed: 0" in process.stdout
    *written, last, end = epochs(server, "aaa")
    assert written == list(range(len(written)))
    assert (last, end) == (5000, 5001)
    assert epochs(server, "bbb") == [0, 1]


def test_a_live_run_is_not_taken_for_a_killed_one(server, program, tmp_path) -> None:
    folder = write(tmp_path, "aaa", 0, 3000, end="killed")
    (folder / "state.json").write_text(json.dumps({"state": "running", "host": "x", "pid": 1}, indent=2) + "\n")
    with FileLock(folder / ".lock"):
        process = program(SYNC, "--all", str(tmp_path), **server.environment())
    assert process.returncode == 0
    assert "uploaded: 0, uploaded before: 0, under way or killed: 1, failed: 0" in process.stdout
    assert not list(tmp_path.rglob("*.synced"))
    assert not server.runs


def test_a_run_of_the_runner_arrives_whole(server, program, offline_run) -> None:
    (result,) = offline_run.glob("*/*/*/result.json")
    (folder,) = result.parent.glob("wandb/offline-run-*")
    assert program(SYNC, str(offline_run), **server.environment()).returncode == 0
    result = json.loads(result.read_text())
    run = server.runs[result["id"]]
    assert run["group"] == "graphnorm/table1"
    summary = json.loads(run["files"]["wandb-summary.json"][0])
    assert result["metrics"].items() <= summary.items()
    for mark in folder.glob("*.synced"):
        mark.unlink()


def test_without_key_or_server_nothing_is_tried(program, tmp_path) -> None:
    write(tmp_path, "aaa")
    for environment, words in (
        ({}, "wandb login"),
        ({"WANDB_API_KEY": 40 * "a", "WANDB_BASE_URL": "http://127.0.0.1:9"}, "cannot be reached"),
    ):
        process = program(SYNC, str(tmp_path), **environment)
        assert process.returncode == 2
        assert words in process.stderr
        assert "Traceback" not in process.stderr


def test_mistakes_are_told(program, tmp_path) -> None:
    assert "there is no folder" in program(SYNC, str(tmp_path / "none")).stderr
    wrong = program(SYNC, "--al")
    assert wrong.returncode == 2
    assert "wandb_sync.sh [--dry-run] [--all] [outputs]" in wrong.stderr
