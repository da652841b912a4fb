"""Runs that are made again: what was there is lost only when the new run is under way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.execution import record
from runner.execution.record import read_metrics, read_result
from runner.sweeps.run_status import run_status
from tests.runner.test_main import only_run


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "state.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("mistake", ["trainer=gpu", "trainer.devices=0"])
def test_a_run_that_cannot_be_made_again_keeps_its_result(call, tiny, tmp_path, mistake):
    assert call(*tiny)[0] == 0
    folder = only_run(tmp_path)
    before = content(folder)
    code, printed = call(*tiny, "rerun=true", mistake)
    assert code == 2, printed
    assert content(folder) == before
    assert "\n  finished" in call(*tiny)[1]


def test_a_kill_while_a_run_is_set_up_again_loses_nothing(call, tiny, tmp_path):
    call(*tiny)
    folder = only_run(tmp_path)
    before = content(folder)
    record.set_aside(folder)
    (folder / "config.yaml").write_text("half")
    assert read_result(folder) is None
    assert "\n  finished" in call(*tiny)[1]
    assert content(folder) == before


def test_a_run_without_a_result_starts_anew_if_so_asked(call, tiny, tmp_path):
    arguments = [*tiny, "dataset.protocol=fair", "method.monitor=val/acc"]
    call(*arguments)
    folder = only_run(tmp_path)
    (folder / "result.json").unlink()
    best = folder / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-50])
    code, printed = call(*arguments)
    assert code == 2
    assert "rerun=true trains it again" in printed
    code, printed = call(*arguments, "rerun=true")
    assert code == 0, printed
    assert len(read_metrics(folder)) == 2


def test_a_requeued_job_that_makes_a_run_again_continues(call, tiny, tmp_path, monkeypatch):
    call(*tiny)
    folder = only_run(tmp_path)
    (folder / "result.json").unlink()
    made = (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    code, printed = call(*tiny, "rerun=true")
    assert code == 0, printed
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == made


def test_the_status_of_a_result_tells_that_running_again_failed(call, tiny, tmp_path):
    from runner.config.address import Run

    call(*tiny)
    assert call(*tiny, "rerun=true", "trainer=gpu")[0] == 2
    status = run_status(Run.compose(tiny))
    assert status.state == "finished"
    assert "running it again failed: trainer.accelerator=gpu" in status.detail


NEEDED = "['method=graphnorm','dataset=atlas','model.hidden=8','model.layers=2','schedule.max_epochs=1'{more}]"
CONF = ("--config-dir", "tests/runner/conf", "method=toy/student")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (["+needs.foo=" + NEEDED.format(more="")], "needs.foo is not an argument of tests.runner.toy.Student"),
        (["schedule.max_epochs=0"], "schedule.max_epochs must be a positive whole number"),
    ],
)
def test_a_mistake_is_found_before_needed_runs_are_made(call, tiny, tmp_path, mistake, said):
    code, printed = call(*CONF, *tiny[1:], *mistake)
    assert code == 2
    assert said in printed
    assert not list(tmp_path.glob("graphnorm/*/*"))


def test_a_needed_run_that_fails_is_why_this_one_failed(call, tiny, tmp_path):
    code, printed = call(*CONF, *tiny[1:], "needs.teacher=" + NEEDED.format(more=",'method.lr=-1'"))
    assert code == 2, printed
    (state,) = tmp_path.glob("toy/*/*/state.json")
    state = json.loads(state.read_text())
    assert state["state"] == "failed"
    assert state["mistake"]
    assert "method.lr must be positive" in state["error"]


def test_a_needed_run_without_training_is_refused_and_kept(call, tiny, tmp_path):
    needed = ["method=graphnorm", "dataset=atlas", "model.hidden=8", "model.layers=2", "stages=[test]"]
    code, printed = call(*needed, "logger=csv", f"paths.outputs={tmp_path}")
    assert code == 0
    assert "an untrained network is tested" in printed
    folder = only_run(tmp_path)
    before = content(folder)
    code, printed = call(*CONF, *tiny[1:], f"needs.teacher={needed!r}")
    assert code == 2
    assert "trains nothing" in printed
    assert content(folder) == before
