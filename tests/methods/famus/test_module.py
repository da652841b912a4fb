"""Training on noisy digits from the command line: metrics, resumption, routes that must agree, mistakes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from runner.record import read_metrics
from tests.runner.conftest import wait_for_epochs

DIGITS = [
    *("dataset=digits", "model=smallcnn", "logger=csv", "threads=1", "model.widths=[8,12]", "dataset.limit_test=100"),
    *("dataset.batch_size=40", "dataset.meta=5", "schedule.max_epochs=2", "dataset.limit_train=300"),
]
META = ["method.meta_batch_size=20"]


def metrics_of(outputs: Path, name: str = "*") -> dict[str, float]:
    (path,) = outputs.glob(f"famus/{name}/*/result.json")
    return json.loads(path.read_text())["metrics"]


def rows_of(outputs: Path) -> list[dict[str, float]]:
    (folder,) = outputs.glob("famus/*/*")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


@pytest.mark.parametrize("method", ["famus/ce", "famus/l2r", "famus/mw_net", "famus"])
def test_every_method_trains(call, tmp_path, method):
    more = [] if method == "famus/ce" else META
    code, printed = call(f"method={method}", *DIGITS, *more, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    metrics, rows = metrics_of(tmp_path), rows_of(tmp_path)
    assert metrics["test/acc"] == pytest.approx(rows[-1]["val/acc"])  # nothing is held out: the test images are watched
    assert metrics["test/best_acc"] == pytest.approx(max(row["val/acc"] for row in rows))
    if method == "famus/ce":
        assert rows[0]["train/weight_clean"] == pytest.approx(1)
    if method == "famus":
        assert 0 <= rows[0]["train/open_gates"] <= 6
        assert rows[0]["train/meta_grad_std"] > 0


def test_both_routes_train_alike(call, tmp_path):
    for route in ("direction", "step"):
        run = ["method=famus", *DIGITS, *META, f"method.route={route}", f"paths.outputs={tmp_path}/{route}"]
        code, printed = call(*run)
        assert code == 0, printed
    one, other = (rows_of(tmp_path / route) for route in ("direction", "step"))
    for a, b in zip(one, other, strict=True):
        assert a["train/meta_loss"] == pytest.approx(b["train/meta_loss"], rel=1e-3)
        assert a["train/weight_clean"] == pytest.approx(b["train/weight_clean"], rel=1e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_numbers(call, spawn, tmp_path):
    run = ["method=famus", *DIGITS, *META, "schedule.max_epochs=12", "checkpoint.every_seconds=0"]
    assert call(*run, f"paths.outputs={tmp_path}/whole")[0] == 0
    process = spawn(*run, f"paths.outputs={tmp_path}/killed")
    wait_for_epochs(tmp_path / "killed", process, 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, printed = call(*run, f"paths.outputs={tmp_path}/killed")
    assert code == 0, printed
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dataset.meta=0"], ["needs clean images: dataset.meta"]),
        (["method.meta_batch_size=51"], ["a meta batch of 51 images cannot be cut out of 50"]),
        (["method.gates.budget=7"], ["method.gates.budget=7 is not among the 6"]),
        (["method.route=backward"], ["method.route must be one of direction, step"]),
        (["method.lr=0"], ["method.lr must be positive"]),
    ],
)
def test_a_mistake_ends_in_one_message(call, tmp_path, arguments, said):
    code, printed = call("method=famus", *DIGITS, *META, *arguments, f"paths.outputs={tmp_path}")
    assert code == 2
    assert all(words in printed for words in said), printed
    assert "Traceback" not in printed
