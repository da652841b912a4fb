"""Finished runs as objects, weights from files, and tests of finished runs in other settings."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import runner
from runner.errors import UserError
from runner.execution.record import read_metrics, read_result
from runner.execution.weights import load_weights, read_state_dict
from runner.test import main as run_test
from runner.test import test_of as config_of_test


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of outputs with one finished run of graph classification."""
    from runner.config.address import Run
    from runner.main import execute
    from tests.runner.conftest import TINY

    outputs = tmp_path_factory.mktemp("outputs")
    execute(Run.compose([*TINY, f"paths.outputs={outputs}"]))
    return outputs


def test_a_run_is_found_by_folder_id_and_overrides(finished):
    from tests.runner.conftest import TINY

    (folder,) = (path.parent for path in finished.glob("*/*/*/result.json"))
    by_folder = runner.load(folder)
    assert by_folder.folder == runner.load(folder.name, finished).folder == runner.load(" ".join(TINY), finished).folder
    assert by_folder.result == read_result(folder)
    assert by_folder.config.method.lr == 0.01
    assert list(by_folder.figures) == sorted(path.stem for path in (folder / "figures").glob("*.png"))
    assert len(by_folder.metrics) == len(read_metrics(folder)) == 2
    assert by_folder.run().id == folder.name


def test_the_module_gives_the_recorded_accuracy(finished):
    run = runner.runs(outputs=finished)[0]
    module, data = run.module(), run.data()
    assert not module.training
    right = total = 0
    with torch.no_grad():
        for graphs in data.test_dataloader():
            right += int((module.network(graphs).argmax(1) == graphs.y).sum())
            total += len(graphs.y)
    assert right / total == pytest.approx(run.result["metrics"]["test/acc"])


def test_runs_are_filtered_and_listed(finished):
    assert len(runner.runs(method="graphnorm", outputs=finished)) == 1
    assert len(runner.runs(method="esparse", outputs=finished)) == 0
    table = runner.runs(outputs=finished).table()
    (row,) = table if isinstance(table, list) else table.to_dict("records")
    assert row["method"] == "graphnorm"
    assert {"test/acc", "time/fit", "memory/process"} <= row.keys()


@pytest.mark.parametrize("reference", ["nowhere", "0123456789ab", "method=graphnorm dataset=atlas seed=99"])
def test_a_run_that_is_not_there_is_said(finished, reference):
    with pytest.raises(UserError):
        runner.load(reference, finished)


def test_an_unknown_key_of_a_test_is_said(finished):
    (folder,) = (path.parent for path in finished.glob("*/graphnorm-atlas-gin/*/result.json"))
    with pytest.raises(UserError, match=r"unknown key dataset\.no_such_key; those of the finished run are in"):
        config_of_test(runner.load(folder), ["dataset.no_such_key=3"])


def test_a_finished_run_is_tested_on_other_data(finished, capfd):
    (folder,) = (path.parent for path in finished.glob("*/graphnorm-atlas-gin/*/result.json"))
    settings = ["logger=csv", f"paths.outputs={finished}", "dataset.fold=3"]
    run_test([f"run={folder}", *settings])
    tested = [path.parent for path in finished.glob("*/*/*/result.json") if path.parent != folder]
    assert len(tested) == 1
    result = read_result(tested[0])
    assert result["identity"]["stages"] == ["test"]
    assert result["identity"]["dataset"]["fold"] == 3
    assert "fit" not in result["seconds"]
    run_test([f"run={folder}", *settings])  # answered from its result
    assert len(list(finished.glob("*/*/*/result.json"))) == 2


def test_a_run_is_tested_where_its_own_config_files_are_not_found(finished, tmp_path):
    from runner.config.address import Run
    from tests.runner.conftest import ROOT, TINY

    conf = f"hydra.searchpath=[{ROOT / 'tests/runner/conf'}]"
    overrides = [*TINY, conf, "model=toy/plain", "~model.norm", "threads=2"]
    run = Run.compose([o for o in overrides if not o.startswith("model.layers")])
    (folder,) = (path.parents[1] for path in finished.glob("*/*/*/checkpoints/last.ckpt"))
    loaded = runner.load(folder)
    loaded.__dict__["config"], loaded.result["choices"]["model"] = run.cfg, "toy/plain"
    test = config_of_test(loaded, ["logger=csv", f"paths.outputs={tmp_path}"])
    assert (test.cfg.model._target_, test.choices["model"]) == ("tests.runner.toy.Plain", "toy/plain")
    assert (test.choices["method"], test.cfg.threads) == ("graphnorm", 2)
    assert "experiment" not in test.choices
    with pytest.raises(Exception, match="toy/plain"):
        config_of_test(loaded, ["dataset=mutag"])
    assert config_of_test(loaded, ["dataset=mutag", conf]).cfg.dataset.name == "MUTAG"


def test_a_run_that_trained_nothing_has_no_weights(finished):
    (folder,) = (path.parents[1] for path in finished.glob("*/*/*/checkpoints/last.ckpt"))
    loaded = runner.load(folder)
    loaded.config.stages = ["test"]
    with pytest.raises(UserError, match="has trained nothing"):
        _ = loaded.checkpoint


def test_the_same_test_gives_the_recorded_metrics(finished):
    (folder,) = (p.parent for p in finished.glob("*/*/*/result.json") if "fit" in read_result(p.parent)["seconds"])
    run_test([f"run={folder.name}", "logger=csv", f"paths.outputs={finished}"])
    metrics = read_result(folder)["metrics"]
    others = [read_result(p.parent) for p in finished.glob("*/*/*/result.json") if p.parent != folder]
    assert any(other["metrics"].items() <= metrics.items() for other in others)  # those of the fit are not among them


class Small(torch.nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.network = torch.nn.Linear(2, width)


@pytest.mark.parametrize("form", ["ckpt", "pt", "safetensors", "network"])
def test_weights_are_read_from_every_form(tmp_path, form):
    source, target = Small(), Small()
    path = tmp_path / f"weights.{form if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        save_file(source.state_dict(), path)
    else:
        state = source.network.state_dict() if form == "network" else source.state_dict()
        torch.save({"state_dict": state, "epoch": 3} if form == "ckpt" else state, path)
    load_weights(target, path)
    assert torch.equal(target.network.weight, source.network.weight)


def test_weights_that_do_not_fit_are_listed(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"network.weight": torch.zeros(4, 2), "other": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_weights(Small(), path)
    assert "missing: network.bias" in str(caught.value)
    assert "network.weight (4, 2) instead of (3, 2)" in str(caught.value)
    assert "not of this model: other" in str(caught.value)


class Evil:
    def __reduce__(self):
        return (print, ("taken over",))


def test_files_that_hold_no_weights_are_refused(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    for content in (Evil(), [1, 2], {"a": 1}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="init_from="):
            read_state_dict(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="is no file of weights"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="there is no such file"):
        read_state_dict(tmp_path / "absent.pt")
    assert "taken over" not in capsys.readouterr().out


def test_the_content_of_the_file_decides_the_id(tmp_path, tiny):
    from runner.config.address import Run

    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    first = Run.compose([*tiny, f"init_from={path}"]).id
    copy = tmp_path / "copy.pt"
    copy.write_bytes(b"one")
    assert Run.compose([*tiny, f"init_from={copy}"]).id == first
    path.write_bytes(b"two")
    assert Run.compose([*tiny, f"init_from={path}"]).id != first
    with pytest.raises(UserError, match="cannot be read"):
        Run.compose([*tiny, f"init_from={tmp_path}/absent"]).id  # noqa: B018
