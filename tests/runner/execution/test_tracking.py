"""W&B may fail, hang or refuse names: the result is there, and soon."""

from __future__ import annotations

import logging
import socket
import time

import pytest

from runner.execution import loggers
from runner.execution.loggers import wandb_name, wandb_server_answers, wandb_tags
from runner.files import read_json
from tests.scripts.wandb_stand_in import WandbStandIn


def test_tags_and_names_are_made_acceptable(caplog):
    with caplog.at_level(logging.WARNING):
        assert wandb_tags(["a", "a", "", "x" * 70]) == ["a", "x" * 64]
        assert wandb_name("my#project%1") == "my_project_1"
        assert len(wandb_name("n" * 300)) == 128
    assert len(caplog.records) == 3


@pytest.fixture
def silent_server():
    """Address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_does_not_answer_is_asked_once(silent_server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")  # restored after the test, though the probe sets it
    monkeypatch.setattr(loggers, "PROBE_SECONDS", 0.2)
    started = time.monotonic()
    assert [wandb_server_answers(silent_server) for _ in range(5)] == [False] * 5
    assert time.monotonic() - started < 5
    import os

    assert os.environ["WANDB_MODE"] == "offline"  # for the processes that this one starts


@pytest.mark.slow
def test_a_server_that_dies_in_mid_run_delays_the_result_by_a_bounded_time(spawn, tiny, tmp_path, monkeypatch):
    server = WandbStandIn()
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    arguments = [o for o in tiny if o != "logger=csv"]
    process = spawn(*arguments, "schedule.max_epochs=200", "logger.wandb.wait_seconds=3")
    while not list(tmp_path.glob("*/*/*/metrics.csv")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    server.shutdown()
    server.server_close()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    (path,) = tmp_path.glob("*/*/*/result.json")
    assert read_json(path)["metrics"]
    assert "Traceback" not in printed


@pytest.mark.slow
def test_names_that_wandb_refuses_do_not_fail_a_run(spawn, tiny, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = [o for o in tiny if o != "logger=csv"]
    process = spawn(*arguments, f"tags=[{'x' * 70}]", "logger.wandb.project='a/b#c'")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
