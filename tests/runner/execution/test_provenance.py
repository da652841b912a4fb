"""What a result says of the code and the files that it was made with, and when they have changed since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.config.address import Run
from runner.execution import provenance
from runner.execution.record import read_result
from runner.files import write_json
from tests.runner.test_main import only_run


def finished(*overrides: str) -> Run:
    """A run with a result whose files count as unchanged."""
    run = Run.compose(list(overrides))
    run.folder.mkdir(parents=True)
    write_json(run.folder / "result.json", {"metrics": {}, "seconds": {}, "code": {}})
    return run


def write(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    for written in (path, path.parent):
        os.utime(written, (written.stat().st_mtime + seconds,) * 2)


@pytest.mark.parametrize(
    ("key", "named", "changed"),
    [
        ("model.path={}/weights", "weights", "weights/model.safetensors"),
        ("dataset.evaluate={}/text.txt", "text.txt", "text.txt"),
        ("dataset.calibration.source={}/mine.txt", "mine.txt", "mine.txt"),
        ("dataset.calibration.source=below", "data/below", "data/below/part/1.txt"),
    ],
)
def test_a_result_tells_which_files_have_changed_since(tmp_path, key, named, changed):
    places = [f"paths.outputs={tmp_path}/out", f"paths.data={tmp_path}/data"]
    write(tmp_path / changed, -100)
    run = finished("method=esparse", key.format(tmp_path), *places)
    assert provenance.staleness(run, read_result(run.folder)) == ""
    write(tmp_path / changed, 100)
    said = f", on data that have changed since ({tmp_path}/{named})"
    assert provenance.staleness(run, read_result(run.folder)) == said


def test_a_result_is_older_than_a_needed_run_that_was_made_again(tmp_path):
    run = finished("method=compression/prune_magnitude", f"paths.outputs={tmp_path}")
    (needed,) = run.needs.values()
    write(needed.folder / "result.json", 100)
    assert f"({needed.folder}/result.json)" in provenance.staleness(run, read_result(run.folder))


def test_the_code_of_a_run_is_what_its_config_names_and_imports(tiny):
    code = provenance.code_hashes(Run.compose(tiny))
    assert {"methods/graphnorm/module.py", "methods/graphnorm/__init__.py", "methods/graphnorm/training.py"} <= set(
        code
    )
    assert {"datasets/graphs/datamodule.py", "datasets/graphs/atlas.py", "datasets/__init__.py"} <= set(code)
    assert not any(path.startswith(("methods/esparse", "methods/famus", "datasets/faces")) for path in code)
    before = provenance.code_hashes(Run.compose(["method=famus/ce", "dataset=digits"]))
    assert "methods/famus/losses.py" in before
    assert provenance.code_hashes(Run.compose(tiny)) == code  # whatever this process has imported meanwhile


def test_a_run_that_continues_by_other_code_says_so_and_counts_as_stale(call, tiny, tmp_path, monkeypatch):
    path = "methods/graphnorm/module.py"
    now = provenance.code_hash(path)
    with monkeypatch.context() as patched:
        patched.setattr(provenance, "code_hashes", lambda run: {path: "before"})
        assert call(*tiny)[0] == 0
    folder = only_run(tmp_path)
    (folder / "result.json").unlink()
    code, printed = call(*tiny)
    assert code == 0, printed
    assert f"continues by other code than it began with; rerun=true starts anew: {path}" in printed
    result = read_result(folder)
    assert result["code"][path] == f"before+{now}"
    assert provenance.is_stale(result)


def test_code_that_changed_twice_is_kept_in_order():
    assert provenance.mixed_code({"a": "1+2", "b": "1"}, {"a": "3", "b": "1", "c": "1"}) == {
        "a": "1+2+3",
        "b": "1",
        "c": "1",
    }


def test_numerics_name_the_cpu_beside_its_instruction_set(tiny):
    run = Run.compose(tiny)
    numerics = provenance.numerics(run, "cpu")
    assert list(numerics)[:3] == ["device", "cpu", "cpu_capability"]
    if (cpuinfo := Path("/proc/cpuinfo")).exists() and "model name" in cpuinfo.read_text():
        assert f": {numerics['cpu']}\n" in cpuinfo.read_text()
    else:
        assert numerics["cpu"]
