"""Training on noisy digits from the command line: metrics, resumption, routes that must agree, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from methods.famus.module import correct_in_top_k
from runner.execution.record import read_metrics
from tests.methods.resumption import check_killed_run_goes_on

DATA = [
    *("dataset=digits", "logger=csv", "threads=1", "dataset.limit_test=100", "dataset.batch_size=40"),
    *("dataset.meta=5", "schedule.max_epochs=2", "dataset.limit_train=300"),
]
DIGITS = [*DATA, "model=smallcnn", "model.widths=[8,12]"]
NORMED = ["model=resnet20", "model.depth=8", "model.width=4"]
META = ["method.meta_batch_size=20"]


def metrics_of(outputs: Path, name: str = "*") -> dict[str, float]:
    (path,) = outputs.glob(f"famus/{name}/*/result.json")
    return json.loads(path.read_text())["metrics"]


def rows_of(outputs: Path, name: str = "*") -> list[dict[str, float]]:
    (folder,) = outputs.glob(f"famus/{name}/*")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


LONG_TAIL = ["dataset.imbalance=10"]
START = ["needs.pretrained.run=['method=famus/mlc_warmup','schedule.max_epochs=2']"]
RUNS = {  # method: what it needs to run on few digits
    "famus": META,
    "famus/ce": [],
    "famus/l2r": META,
    "famus/l2r_famus": META,
    "famus/mw_net": META,
    "famus/mw_net_stable": META,
    "famus/random_layers": META,
    "famus/mlc_famus": [*META, *START],
    "famus/coteaching": ["dataset.meta=0"],
    "famus/mixup": ["dataset.meta=0"],
    "famus/mentornet": ["method.mentor.burn_in=0.5"],
    "famus/mentormix": ["method.mentor.burn_in=0.5", "method.second_reweight=true"],
    "famus/cb_focal": LONG_TAIL,
    "famus/ldam_drw": [*LONG_TAIL, "method.start_epoch=1"],
    "famus/famus_ldam": [*LONG_TAIL, *META],
}


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_every_method_trains(call, tmp_path, method):
    code, printed = call(f"method={method}", *DIGITS, *RUNS[method], f"paths.outputs={tmp_path}")
    assert code == 0, printed
    name = f"{method.partition('/')[2] or 'famus'}-*"
    metrics, rows = metrics_of(tmp_path, name), rows_of(tmp_path, name)
    assert metrics["test/acc"] == pytest.approx(rows[-1]["val/acc"])  # nothing is held out: the test images are watched
    assert metrics["test/best_acc"] == pytest.approx(max(row["val/acc"] for row in rows))
    first, last = rows
    assert last["step"] == 2 * first["step"] == 2 * (300 // 40 if "ldam_drw" not in method else 8)
    if method in ("famus/ce", "famus/mixup"):
        assert first["train/weight_clean"] == pytest.approx(1)
        assert first["train/weight_auc"] == pytest.approx(0.5)
    if "famus" in method.partition("/")[2] or method == "famus":
        assert 0 <= first["train/open_gates"] <= 6
    if method == "famus/coteaching":
        assert "train/meta_loss" not in first
    if method in ("famus", "famus/mw_net"):
        assert first["train/meta_grad_std"] > 0
    if method == "famus":
        drawn = {path.stem for path in tmp_path.glob("famus/*/*/figures/*.png")}
        assert {"weights", "weight_means", "separation", "open_gates", "open_layers", "meta_gradient"} <= drawn
    if method == "famus/mlc_famus":
        assert 0.5 < first["train/transition_diagonal"] < 1
        start = metrics_of(tmp_path, "mlc_warmup-*")
        assert start["test/acc"] == pytest.approx(start["test/best_acc"])  # the best weights are handed on
    if method == "famus/random_layers":
        assert first["train/open_gates"] == 4


@pytest.mark.slow
def test_gates_that_are_all_open_are_mw_net(call, tmp_path):
    run = [*DIGITS, *META, "schedule.max_epochs=1"]
    assert call("method=famus/mw_net", *run, f"paths.outputs={tmp_path}")[0] == 0
    assert call("method=famus/random_layers", "method.gates.layers=6", *run, f"paths.outputs={tmp_path}")[0] == 0
    plain, through = rows_of(tmp_path, "mw_net-*"), rows_of(tmp_path, "random_layers-*")
    assert [{**row, "train/open_gates": 6} for row in plain] == through


def test_blocks_alone_are_open(call, tmp_path):
    more = [*NORMED, "method.gates.block=3"]
    code, printed = call("method=famus/from_block", *DATA, *META, *more, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    assert {row["train/open_gates"] for row in rows_of(tmp_path)} == {6}  # two convolutions and their norms


@pytest.mark.slow
def test_open_gates_settle_at_their_budget_and_weights_tell_noise(call, tmp_path):
    run = ["experiment=famus/demo", "logger=csv", "threads=1", "dataset.limit_train=700", "schedule.max_epochs=16"]
    code, printed = call(*run, "method.scheduler.milestones=[12,15]", f"paths.outputs={tmp_path}")
    assert code == 0, printed
    rows = rows_of(tmp_path)
    assert sum(row["train/open_gates"] for row in rows[-8:]) / 8 == pytest.approx(2, abs=0.5)
    assert rows[-1]["train/weight_clean"] > rows[-1]["train/weight_noisy"]
    assert rows[-1]["train/weight_auc"] > 0.7


@pytest.mark.slow
def test_both_routes_train_alike_from_either_virtual_step(call, tmp_path):
    losses = {}
    for virtual_step in ("plain", "full"):
        for route in ("forward_mode", "unrolled"):
            how = [f"method.virtual_step={virtual_step}", f"method.meta_gradient={route}"]
            outputs = tmp_path / virtual_step / route
            code, printed = call("method=famus", *DATA, *NORMED, *META, *how, f"paths.outputs={outputs}")
            assert code == 0, printed
        one, other = (rows_of(tmp_path / virtual_step / route) for route in ("forward_mode", "unrolled"))
        for a, b in zip(one, other, strict=True):
            assert a["train/meta_loss"] == pytest.approx(b["train/meta_loss"], rel=1e-4)
            assert a["train/weight_clean"] == pytest.approx(b["train/weight_clean"], rel=1e-3)
        losses[virtual_step] = one[-1]["train/meta_loss"]
    assert losses["full"] != pytest.approx(losses["plain"], rel=1e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_numbers(call, spawn, tmp_path):
    run = ["method=famus", *DIGITS, *META, "schedule.max_epochs=12"]
    check_killed_run_goes_on(call, spawn, tmp_path, run, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dataset.meta=0"], ["needs clean images: dataset.meta"]),
        (["method.meta_batch_size=51"], ["a meta batch of 51 images cannot be cut out of 50"]),
        (["method.gates.budget=7"], ["method.gates.budget=7 is not in [0, 6]"]),
        (
            ["method.meta_gradient=backward"],
            ["method.meta_gradient=backward is unknown; choose from forward_mode, unrolled"],
        ),
        (["method.lr=0"], ["method.lr must be positive"]),
        (["method.weight_decay=-1"], ["method.weight_decay must not be negative"]),
        (["method.alignment_weight=-1"], ["method.alignment_weight must not be negative"]),
        (["dataset.noise.rate=1.2"], ["dataset.noise.rate must be a number in [0, 1], got 1.2"]),
        (["dataset.meta=200"], ["dataset.meta=200 leaves none of the"]),
        (["dataset.meta_from=val"], ["dataset.meta_from=val is unknown; choose from train, test"]),
        (["method.alignment_form=mean"], ["method.alignment_form=mean is unknown; choose from paper, code"]),
        (["method.gate_gradient=mine"], ["method.gate_gradient=mine is unknown; choose from published, consistent"]),
        (["method.virtual_step=half"], ["method.virtual_step=half is unknown; choose from plain, full"]),
        (["method.gate_optimizer=null"], ["method.gates needs method.gate_optimizer"]),
    ],
)
def test_a_mistake_ends_in_one_message(call, tmp_path, arguments, said):
    code, printed = call("method=famus", *DIGITS, *META, *arguments, f"paths.outputs={tmp_path}")
    assert code == 2
    assert all(words in printed for words in said), printed
    assert "Traceback" not in printed


def test_a_diverging_weight_net_ends_in_a_failed_run(call, tmp_path):
    run = ["method=famus", *DIGITS, *META, "method.weight_net_optimizer.lr=1e38", f"paths.outputs={tmp_path}"]
    with pytest.raises(FloatingPointError, match="train/meta_loss is nan after the virtual step 1"):
        call(*run)
    assert not list(tmp_path.glob("famus/*/*/result.json"))
    (state,) = tmp_path.glob("famus/*/*/state.json")
    assert json.loads(state.read_text())["state"] == "failed"


@pytest.mark.parametrize("top", [1, 5])
def test_correct_samples_are_top_k_accuracies(top):
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(200, 20, generator=generator), torch.randint(0, 20, (200,), generator=generator)
    expected = multiclass_accuracy(logits, y, num_classes=20, top_k=top, average="micro")
    torch.testing.assert_close(correct_in_top_k(logits, y, top).mean(), expected)
