"""The command line, by its real entry point."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.execution.record import read_metrics, read_result
from tests.runner.conftest import ROOT


def only_run(outputs: Path) -> Path:
    """The folder of the only run there."""
    (result,) = outputs.glob("*/*/*/result.json")
    return result.parent


def test_a_run_leaves_its_record(call, tiny, tmp_path) -> None:
    code, printed = call(*tiny)
    assert code == 0
    folder = only_run(tmp_path)
    result = read_result(folder)
    assert f"{result['metrics']['test/acc']:.4f}" in printed
    assert 0 < result["metrics"]["test/acc"] <= 1
    assert result["identity"]["schedule"] == {"max_epochs": 2}
    assert result["seed"] == 0
    assert set(result["seconds"]) == {"setup", "fit", "test"}
    assert result["device"] == "cpu"
    assert result["versions"]["torch"]
    assert "methods/graphnorm/networks.py" in result["code"]
    assert (folder / "config.yaml").exists()
    assert "on cpu" in (folder / "run.log").read_text()
    assert not (folder / "state.json").exists()
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["last.ckpt", "last.ckpt.sha256.json"]
    assert (folder / "figures" / "curve_acc.png").stat().st_size > 1000
    rows = read_metrics(folder)
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[-1]["val/acc"] == result["metrics"]["test/acc"]  # under the xu protocol they are the same graphs


def test_asked_twice_it_answers_from_the_record(call, tiny, tmp_path) -> None:
    call(*tiny)
    path = only_run(tmp_path) / "result.json"
    before = path.stat().st_mtime_ns
    code, printed = call(*tiny, "threads=2")
    assert code == 0
    assert "\n  finished" in printed
    assert path.stat().st_mtime_ns == before
    metrics = json.loads(path.read_text())["metrics"]
    call(*tiny, "rerun=true")
    assert path.stat().st_mtime_ns != before
    assert json.loads(path.read_text())["metrics"] == metrics  # the same command gives the same numbers


def test_no_checkpoint_is_kept_if_so_asked(call, tiny, tmp_path) -> None:
    call(*tiny, "checkpoint.keep=false")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_best_epoch_is_tested_where_the_method_picks_one(call, tiny, tmp_path) -> None:
    call(*tiny, "dataset.protocol=fair", "method.monitor=val/acc", "schedule.max_epochs=4")
    assert (only_run(tmp_path) / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_a_needed_run_is_made_once_and_handed_over(call, tiny, tmp_path) -> None:
    conf = ["--config-dir", str(ROOT / "tests/runner/conf")]
    student = [argument.replace("method=graphnorm", "method=toy/student") for argument in tiny]
    code, printed = call(*conf, *student, "checkpoint.keep=false")
    assert code == 0, printed
    (teacher,) = (tmp_path / "graphnorm").glob("*/*/result.json")
    assert (teacher.parent / "checkpoints" / "last.ckpt").exists()
    made = teacher.stat().st_mtime_ns
    assert len(read_metrics(teacher.parent)) == 1
    code, printed = call(*conf, *student, "seed=1")
    assert code == 0, printed
    assert teacher.stat().st_mtime_ns == made
    (teacher.parent / "checkpoints" / "last.ckpt").unlink()
    code, printed = call(*conf, *student, "seed=2")
    assert code == 0, printed
    assert teacher.stat().st_mtime_ns != made
    assert len(list((tmp_path / "toy").glob("*/*/result.json"))) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["method=nonsense"], ["there is no method=nonsense; choose from", "graphnorm"]),
        (["method=graphnorm", "dataset=nonsense"], ["nonsense", "choose from", "atlas"]),
        (["seed=1"], ["choose a method (method=<name>)"]),
        (["method=graphnorm", "method.lrr=1"], ["method.lrr"]),
        (["method=graphnorm", "dataset=atlas", "method.lr=-1"], ["method.lr must be positive"]),
        (["method=graphnorm", "dataset=atlas", "model.norm=nonsense"], ["nonsense", "graph", "batch"]),
        (["method=graphnorm", "dataset=atlas", "dataset.fold=10"], ["dataset.fold=10 is unknown; choose from 0, 1"]),
        (
            ["method=graphnorm", "dataset=atlas", "dataset.protocol=none"],
            ["dataset.protocol must be one of xu, fair, got none"],
        ),
    ],
)
def test_a_mistake_ends_in_one_message(call, tmp_path, arguments, expected) -> None:
    code, printed = call(*arguments, "logger=csv", f"paths.outputs={tmp_path}")
    assert code == 2
    assert all(words in printed for words in expected), printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("result.json"))


def test_missing_data_says_which_file_goes_where(call, tmp_path) -> None:
    arguments = ["method=graphnorm", "dataset=mutag", f"paths.data={tmp_path}/none", f"paths.outputs={tmp_path}/o"]
    code, printed = call(*arguments, "logger=csv")
    assert code == 2
    assert f"{tmp_path}/none/TUDataset/MUTAG/raw/MUTAG_A.txt" in printed
    assert "RUNNER_DATA" in printed
    assert not list(tmp_path.rglob("result.json"))


def test_what_does_not_fit_together_is_refused_before_training(call, tiny) -> None:
    code, printed = call("--config-dir", str(ROOT / "tests/runner/conf"), *tiny[1:], "method=toy/elsewhere")
    assert code == 2
    assert "mind-reading" in printed
    assert "graphnorm" in printed.split("Methods that fit")[1]


def test_a_key_of_the_method_that_the_model_does_not_take_is_named(call, tmp_path) -> None:
    arguments = ["--config-dir", str(ROOT / "tests/runner/conf"), "method=graphnorm", "dataset=atlas", "logger=csv"]
    arguments += ["model=toy/plain", "schedule.max_epochs=1", f"paths.outputs={tmp_path}"]
    code, printed = call(*arguments)
    assert code == 2
    assert "model.norm is not an argument of tests.runner.toy.Plain; its arguments: in_channels, out_chan" in printed
    assert "Traceback" not in printed
    assert "~model.norm" in printed
    code, printed = call(*arguments, "~model.norm")
    assert code == 0, printed


def test_divergence_names_the_step_and_marks_the_run_failed(call, tiny, tmp_path) -> None:
    code, printed = call(*tiny, "method=graphnorm/none", "method.lr=1e30", "schedule.max_epochs=20")
    assert code == 1
    assert re.search(r"loss is (nan|inf) at step \d+ \(epoch \d+\): the training diverged", printed)
    assert "Traceback" not in printed
    (state,) = tmp_path.rglob("state.json")
    assert json.loads(state.read_text())["state"] == "failed"
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize("key", ["method.lr", "+dataset.augment.share", "+trainer.gradient_clip_val"])
def test_a_value_that_is_nan_is_refused_by_its_key(call, tiny, tmp_path, key) -> None:
    code, printed = call(*tiny, f"{key}=nan")
    assert code == 2
    assert f"{key.lstrip('+')} must be a number, got nan" in printed
    assert not list(tmp_path.rglob("result.json"))


def test_an_unwritable_place_is_one_message(call, tiny, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    code, printed = call(*tiny[:-1], f"paths.outputs={tmp_path}/file/x")
    assert code != 0
    assert "file/x" in printed


def test_help_is_quick_and_fits_a_screen() -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "runner", "--help"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0
    assert "graphnorm" in done.stdout
    assert len(done.stdout.splitlines()) < 40  # a screen
    assert time.monotonic() - started < 60  # says that it ends; how fast is for scripts/ to measure


def test_help_lists_and_shows_options(call) -> None:
    assert "graphnorm/batch" in call("--help", "method")[1]
    assert "188 nitroaromatic compounds" in call("--help", "dataset")[1]
    assert "_target_: datasets" in call("--help", "dataset=atlas")[1]
    code, printed = call("--help", "dataset=atlass")
    assert code == 2
    assert "there is no dataset=atlass" in printed
    assert call("--help", "colour")[0] == 2


def test_the_version_is_the_projects(call) -> None:
    code, printed = call("--version")
    assert code == 0
    assert printed.startswith("paper-runner ")


def test_a_finished_run_imports_nothing_heavy(call, tiny, tmp_path) -> None:
    call(*tiny)
    code = "import sys, runner.cli; runner.cli.main(); assert not {'torch', 'wandb', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *tiny], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "\n  finished" in done.stdout


@pytest.mark.slow
def test_a_graph_run_never_imports_transformers_or_pyg(tiny) -> None:
    code = (
        "import sys, runner.cli; runner.cli.main();"
        "assert not {'transformers', 'wandb', 'torch_geometric'} & set(sys.modules)"
    )
    env = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    done = subprocess.run([sys.executable, "-c", code, *tiny], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_result_older_than_the_data_says_so(call, tmp_path) -> None:
    from PIL import Image

    for part, name in itertools.product(("train", "test"), "ab"):
        (tmp_path / "images" / part / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 60 * i + 10 * (name == "b")).save(tmp_path / "images" / part / name / f"{i}.png")
    run = ["method=famus/ce", "dataset=image_folder", f"dataset.folder={tmp_path}/images", "dataset.size=8"]
    run += ["dataset.meta=0", "dataset.batch_size=4", "model=smallcnn", "model.widths=[4,4]", "dataset.noise=null"]
    run += ["schedule.max_epochs=1", "logger=csv", f"paths.outputs={tmp_path}/out"]
    code, printed = call(*run)
    assert code == 0, printed
    assert "written to since" not in call(*run)[1]
    folder = tmp_path / "images" / "train" / "a"
    shutil.copy(folder / "0.png", folder / "new.png")
    assert "finished, on data that have changed since" in call(*run)[1]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("method=famuss", "there is no method=famuss. Did you mean famus,"),
        ("experiment=famus/tabel1", "Did you mean famus/table1,"),
        ("experiment=famus/demo dataset.batch_sise=3", "unknown key dataset.batch_sise."),
        ("experiment=famus/demo schedule.max_epochs=0", "schedule.max_epochs must be a positive whole number"),
    ],
)
def test_misspelt_names_and_no_epochs(call, tmp_path, argument, said) -> None:
    code, printed = call(*argument.split(), f"paths.outputs={tmp_path}")
    assert code == 2
    assert said in printed
    assert "Traceback" not in printed
