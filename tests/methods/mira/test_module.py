"""MIRA from the command line on embedded digits: a marked model, attacks on it, verdicts, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from methods.architectures.convnet import ConvNet
from methods.mira.triggers import load_triggers

DATA = [
    *("dataset=digits", "dataset.size=8", "model=smallcnn", "model.widths=[16,24]", "logger=csv", "threads=1"),
    *("dataset.limit_test=100", "dataset.batch_size=64", "dataset.holdout=20"),
]
BENCH = [*DATA, "vars.epochs=4", "vars.lr=0.1", "vars.inversion.per_class=10", "vars.inversion.steps=10"]
SHORT = ["method.images=100", "method.attack.sgd.epochs=2", "method.max_acc_loss=1.0"]


def results(outputs: Path) -> dict[str, Path]:
    return {path.parts[-3].partition("-")[0]: path.parent for path in outputs.glob("mira/*/*/result.json")}


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "result.json").read_text())["metrics"]


@pytest.mark.slow
def test_marked_attacked_and_verified(call, tmp_path):
    outputs = f"paths.outputs={tmp_path}"
    code, printed = call("method=mira", *BENCH, *SHORT, outputs, "method.attack.detection.draws=2")
    assert code == 0, printed
    folders = results(tmp_path)
    assert set(folders) == {"embed_content", "null", "recover", "mira"}
    assert metrics_of(folders["embed_content"])["test/marked"] == 1
    metrics = metrics_of(folders["mira"])
    assert metrics["test/trigger_acc_before"] == metrics_of(folders["embed_content"])["test/trigger_acc"]
    assert metrics["test/utility"] == pytest.approx(metrics["test/acc"] / metrics["test/acc_before"], rel=1e-5)
    assert {"test/removed_null", "test/removed_binomial", "test/margin", "test/rescaled_acc"} <= metrics.keys()
    for name in ("recovered", "activations", "smooth_acc", "epochs"):
        assert (folders["mira"] / "figures" / f"{name}.png").exists()

    triggers = folders["embed_content"] / "triggers.pt"
    assert len(load_triggers(triggers).y) == 100
    removed = folders["mira"] / "removed.pt"
    assert "head.weight" in torch.load(removed, weights_only=True)
    needs = "needs.nulls.run=['method=mira/null','schedule.max_epochs=4','method.lr=0.1']"
    code, printed = call(
        *("method=mira/verify", *DATA, outputs, needs, f"init_from={removed}", f"method.triggers={triggers}")
    )
    assert code == 0, printed
    assert metrics_of(results(tmp_path)["verify"])["test/trigger_acc"] == metrics["test/trigger_acc"]

    code, printed = call("method=mira/pruning", *BENCH, outputs, "method.min_trigger_acc=1.0", "vars.scheme=adi")
    assert (code, "is not marked: trigger accuracy" in printed) == (2, True), printed
    code, printed = call("method=mira/pruning", *BENCH, outputs, "vars.scheme=adi", "method.setting=nowhere")
    assert (code, "method.setting=nowhere is unknown" in printed) == (2, True), printed
    own = (*BENCH, *SHORT, outputs, "~needs.victim", f"init_from={removed}", f"method.triggers={triggers}")
    code, printed = call("method=mira/ftal", *own, "method.min_trigger_acc=0")
    assert code == 0, printed
    assert metrics_of(results(tmp_path)["ftal"])["test/trigger_acc_before"] == metrics["test/trigger_acc"]
    code, printed = call("method=mira/ftal", *BENCH, outputs, f"init_from={removed}")
    assert (code, "are two models" in printed) == (2, True), printed
    untrained = "needs.victim.run=['method=mira/embed/content','schedule.max_epochs=1','method.lr=0.000001']"
    code, printed = call("method=mira/none", *BENCH, outputs, untrained, "method.min_trigger_acc=0")
    assert (code, "below that of the clean models" in printed) == (2, True), printed


@pytest.mark.slow
def test_data_free_on_random_labels_is_refused(call, tmp_path):
    small = (*BENCH, *SHORT, f"paths.outputs={tmp_path}", "vars.scheme=adi", "vars.epochs=12", "~needs.nulls")
    code, printed = call("method=mira", *small, "method.setting=data_free", "method.min_trigger_acc=0")
    assert (code, "triggers share one class" in printed) == (2, True), printed


def test_a_model_must_be_named(call, tmp_path):
    common = (*DATA, f"paths.outputs={tmp_path}", "~needs.nulls", f"method.triggers={tmp_path}/triggers.pt")
    for method in ("mira/verify", "mira/none"):
        code, printed = call(f"method={method}", *common, *(["~needs.victim"] if method == "mira/none" else []))
        assert (code, "no model is named: init_from=FILE" in printed) == (2, True), printed


def test_verification_without_a_trigger_file_is_refused(call, tmp_path):
    code, printed = call("method=mira/verify", *DATA, f"paths.outputs={tmp_path}", "~needs.nulls")
    assert code == 2
    assert "method.triggers names no file" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=mira", "method.triggers=mine.pt"], "method.triggers=mine.pt is for a model of one's own"),
        (["method=mira", "method.setting=nowhere"], "method.setting=nowhere is unknown"),
        (["method=mira/wild", "method.attack.area=[0.3,0.1]"], "method.attack.area must be two shares"),
        (["method=mira", "vars.inversion.steps=0"], "vars.inversion.steps must be positive"),
        (["method=mira/own_model", "init_from={weights}", "method.triggers=none.pt"], "none.pt does not exist"),
        (["method=mira/verify", "init_from={weights}", "method.triggers=none.pt"], "none.pt does not exist"),
        (["method=mira", "init_from={weights}"], "are two models"),
    ],
)
def test_mistakes_are_found_before_any_model_is_trained(call, tmp_path, arguments, message):
    weights = tmp_path / "weights.pt"
    torch.save(
        ConvNet(in_channels=1, num_classes=10, image_size=8, mean=[0.5], std=[0.5], widths=[16, 24]).state_dict(),
        weights,
    )
    outputs = f"paths.outputs={tmp_path}"
    code, printed = call(*DATA, outputs, *(argument.format(weights=weights) for argument in arguments))
    assert (code, message in printed) == (2, True), printed
    assert not list(tmp_path.rglob("*.ckpt"))
