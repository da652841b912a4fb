"""Runs that write a model, interrupted and asked again."""

from __future__ import annotations

import pytest

from methods.esparse import pruning
from methods.esparse.export import UNFINISHED, sign
from methods.esparse.module import OneShotPruning
from methods.esparse.streaming import StreamedDecoder, block_file
from runner.execution.record import read_result
from tests.methods.esparse.test_checkpoints import assert_refused, no_figures, run, save  # noqa: F401  (fixtures)


class Killed(BaseException):
    """As a signal that ends the process."""


def kill(*_, **__) -> None:
    raise Killed


@pytest.fixture
def pruned(monkeypatch) -> list[int]:
    """Numbers of the blocks that are pruned."""
    numbers: list[int] = []
    prune_block = pruning.prune_block

    def counted(decoder, block, number, *rest):
        numbers.append(number)
        return prune_block(decoder, block, number, *rest)

    monkeypatch.setattr(pruning, "prune_block", counted)
    return numbers


def metrics(outputs) -> dict[str, float]:
    (result,) = outputs.glob("*/*/*/result.json")
    found = read_result(result.parent)["metrics"]
    return {name: value for name, value in found.items() if not name.endswith("_seconds")}


@pytest.mark.parametrize(
    ("options", "again"),
    [
        (["method.stream=true"], []),
        (["method.stream=true", "method.export={tmp}/out"], []),
        (["method.export={tmp}/out"], [0, 1]),
    ],
    ids=["streamed", "streamed to a folder", "in memory"],
)
def test_a_run_killed_while_its_model_is_evaluated_finishes(run, tmp_path, monkeypatch, pruned, options, again):  # noqa: F811
    save(tmp_path / "model")
    options = [option.replace("{tmp}", str(tmp_path)) for option in options]
    with monkeypatch.context() as patch:
        patch.setattr(OneShotPruning, "test_step", kill)
        with pytest.raises(Killed):
            run(*options)
    folder = tmp_path / "out" if "export" in options[-1] else next(tmp_path.glob("outputs/*/*/*/model"))
    assert (folder / "config.json").exists()
    assert pruned == [0, 1]
    pruned.clear()
    code, printed = run(*options)
    assert code == 0, printed
    assert pruned == again
    assert not (folder / UNFINISHED).exists()
    whole = [option.replace("/out", "/other") for option in options]
    run(*whole, f"paths.outputs={tmp_path}/whole")
    assert metrics(tmp_path / "outputs") == metrics(tmp_path / "whole")


def test_a_streamed_run_without_its_result_is_run_again(run, tmp_path):  # noqa: F811
    save(tmp_path / "model")
    assert run("method.stream=true")[0] == 0
    next(tmp_path.rglob("result.json")).unlink()
    code, printed = run("method.stream=true")
    assert code == 0, printed


@pytest.mark.parametrize(("version", "left"), [(None, [1]), ("another", [0, 1])], ids=["same code", "other code"])
def test_blocks_of_other_code_are_pruned_again(run, tmp_path, monkeypatch, pruned, version, left):  # noqa: F811
    save(tmp_path / "model")
    store_reports = StreamedDecoder.store_reports

    def killed_after_one(self, i, reports):
        store_reports(self, i, reports)
        if i == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StreamedDecoder, "store_reports", killed_after_one)
        with pytest.raises(Killed):
            run("method.stream=true")
    assert len(list(tmp_path.rglob(block_file(0)))) == 1
    pruned.clear()
    if version:
        monkeypatch.setattr("methods.esparse.export.code_version", lambda: version)
    code, printed = run("method.stream=true")
    assert code == 0, printed
    assert pruned == left


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_another_run_is_evaluating_is_left_alone(run, tmp_path, stream):  # noqa: F811
    save(tmp_path / "model")
    save(tmp_path / "out")
    sign(tmp_path / "out", tmp_path / "another run")
    result = run(f"method.stream={stream}", f"method.export={tmp_path}/out")
    assert_refused(result, tmp_path, "method.export=", "exists already")
    assert (tmp_path / "out" / "model.safetensors").exists()
