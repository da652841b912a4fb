"""Adversarial training from the command line on real digits: metrics, figures, resumption, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from methods.attacks import PGD
from methods.f2at.module import AdversarialTraining, contradictions, correct, weights_of
from methods.f2at.objectives import Objective
from tests.methods.networks import batch, small_network
from tests.methods.resumption import check_killed_run_goes_on

DIGITS = [
    *("dataset=digits", "model=smallcnn", "logger=csv", "threads=1", "method.eps=0.1", "method.step=0.03"),
    *("dataset.limit_train=240", "dataset.limit_test=60", "dataset.holdout=40", "dataset.batch_size=40"),
    *("model.widths=[8,12]", "schedule.max_epochs=2", "attack.steps=2", "method.watch.steps=2"),
    *("~method.evaluation.pgd100", "method.evaluation.cw.steps=3", "method.evaluation.pgd20.steps=3"),
]
METHODS = [
    "natural",
    "pgd_at",
    "pgd_at_rice",
    "trades",
    "mart",
    "seat",
    "lbgat",
    "fat",
    "hat",
    "awp",
    "trades_awp",
    "bpfc",
]
RECONSTRUCTIONS = ["f2at", "f2at/trades_like", "f2at/feature", "f2at/natural_term", "f2at/perturbed_term"]


def metrics_of(outputs: Path, name: str = "*") -> dict[str, float]:
    (path,) = outputs.glob(f"f2at/{name}/*/result.json")
    return json.loads(path.read_text())["metrics"]


@pytest.mark.parametrize("method", [*(f"f2at/{name}" for name in METHODS), *RECONSTRUCTIONS])
def test_every_method_trains_and_is_attacked(call, tmp_path, method):
    code, printed = call(f"method={method}", *DIGITS, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    name = f"{method.removeprefix('f2at/')}-digits-smallcnn" if method not in RECONSTRUCTIONS else "reconstruction*"
    metrics = metrics_of(tmp_path, name)
    for kind in ("", "last_"):
        assert metrics[f"test/{kind}pgd20_acc"] <= metrics[f"test/{kind}acc"] <= 1
        assert {f"test/{kind}fgsm_acc", f"test/{kind}cw_acc"} <= metrics.keys()
    clean, robust = metrics["test/acc"], metrics["test/cw_acc"]
    assert metrics["test/nrr"] == pytest.approx(2 * clean * robust / max(clean + robust, 1e-12), abs=1e-6)
    (folder,) = tmp_path.glob(f"f2at/{name}/*")
    assert (folder / "figures" / "patterns.png").exists()
    assert (folder / "figures" / "curve_adv_acc.png").exists()  # of training and validation: robust overfitting


def test_every_name_of_the_reconstruction_says_so(call, tmp_path):
    code, printed = call("method=f2at", *DIGITS, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    assert "reconstruction_a-digits-smallcnn on cpu" in printed
    (folder,) = tmp_path.glob("f2at/*/*")
    assert folder.parent.name.startswith("reconstruction")
    assert "reconstruction" in (folder / "config.yaml").read_text()


def test_hat_shares_data_and_schedule_with_the_run_it_needs(call, tmp_path):
    call("method=f2at/natural", *DIGITS, f"paths.outputs={tmp_path}")
    (natural,) = tmp_path.glob("f2at/natural*/*")
    before = (natural / "result.json").stat().st_mtime_ns
    code, printed = call("method=f2at/hat", *DIGITS, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    assert (
        len(list(tmp_path.glob("f2at/natural*/*/result.json"))) == 2
    )  # its evaluation is the paper's, hence another run
    assert (natural / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_numbers(call, spawn, tmp_path):
    run = ["method=f2at/seat", *DIGITS, "schedule.max_epochs=12"]
    run += ["method.perturbation={_target_: methods.f2at.averaging.WeightPerturbation, gamma: 0.01}"]
    check_killed_run_goes_on(call, spawn, tmp_path, run, 4)


def test_a_run_that_was_killed_in_its_test_still_knows_its_last_weights(call, tmp_path):
    run = ["method=f2at/pgd_at", *DIGITS, f"paths.outputs={tmp_path}"]
    assert call(*run)[0] == 0
    metrics = metrics_of(tmp_path)
    (result,) = tmp_path.rglob("result.json")
    result.unlink()
    assert call(*run)[0] == 0
    assert metrics_of(tmp_path) == metrics


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["method.eps=8"], ["8/255 is 0.0314"]),
        (["dataset.holdout=0"], ["method.monitor=val/adv_acc needs images to validate on", "method.monitor=null"]),
        (["method.watch=null"], ["method.monitor=val/adv_acc needs an attack to validate with"]),
        (["+method.evaluation.aa={_target_: methods.autoattack.AutoAttack, eps: 8}"], ["8/255 is 0.0314"]),
        (["method.lr=0"], ["method.lr must be positive"]),
        (["method.average=1"], ["method.average must lie in"]),
        (["+method.images.nonsense=5"], ["method.images names no attack", "nonsense"]),
        (["method=f2at", "method.objective.planes.k=8"], ["1..7"]),
        (["method=f2at", "method.objective.natural=-1"], ["method.objective.natural must not be negative"]),
        (["model=lenet5"], ["LeNet"]),
        (["method=graphnorm"], ["the data set is for image-classification"]),
    ],
)
def test_a_mistake_ends_in_one_message(call, tmp_path, arguments, said):
    method = [] if arguments[0].startswith("method=") else ["method=f2at/pgd_at"]
    base = [o for o in DIGITS if not ("model=lenet5" in arguments and o.startswith(("model.", "model=")))]
    if "method=graphnorm" in arguments:
        base = ["dataset=digits", "model=smallcnn", "logger=csv"]
    code, printed = call(*method, *base, *arguments, f"paths.outputs={tmp_path}")
    assert code == 2
    assert all(words in printed for words in said), printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("result.json"))


def test_stronger_attacks_leave_less():
    assert contradictions({"acc": 0.9, "fgsm_acc": 0.6, "pgd20_acc": 0.5, "cw_acc": 0.5, "aa_acc": 0.45}) == []
    assert contradictions({"fgsm_acc": 0.4, "pgd20_acc": 0.5}) == ["pgd20_acc 0.500 > fgsm_acc 0.400"]
    assert len(contradictions({"aa_acc": 0.6, "pgd20_acc": 0.5, "cw_acc": 0.55})) == 2


def test_accuracy_is_that_of_eval_mode():
    network, (x, y) = small_network().train(), batch()
    before = network.layers[1].running_mean.clone()
    found = correct(network, x, y)
    assert torch.equal(network.layers[1].running_mean, before)
    assert torch.equal(found, (small_network()(x).argmax(1) == y).float())


def test_weights_of_another_run_are_taken(tmp_path):
    for average in (None, 0.9):
        module = AdversarialTraining(small_network(seed=1), Objective(), watch=PGD(0.1, 0.03, 1), average=average)
        with torch.no_grad():
            module.network.head.weight.add_(1)
        torch.save({"state_dict": module.state_dict()}, tmp_path / "one.ckpt")
        loaded = weights_of(tmp_path / "one.ckpt", small_network(seed=2))
        assert torch.equal(loaded.head.weight, module.judged.head.weight)


def test_autoattack_leaves_no_more_than_pgd():
    pytest.importorskip("pyautoattack")
    from methods.autoattack import AutoAttack

    torch.manual_seed(0)
    network, (x, _) = small_network(channels=3), batch(n=16, channels=3)
    network, x = network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    y = network(x).argmax(1)
    with torch.inference_mode():  # as in a test stage
        adv = AutoAttack(0.05)(network, x, y)
    assert (adv - x).abs().max() <= 0.05 + 1e-6
    assert correct(network, adv, y).mean() <= correct(network, PGD(0.05, 0.0125, 20)(network, x, y), y).mean()


def test_attacks_pass_from_one_run_to_another(call, tmp_path):
    small = [o for o in DIGITS if o.startswith(("dataset", "model", "logger", "threads"))]
    short = "'schedule.max_epochs=1','attack.steps=1','method.evaluation.pgd100=null','method.evaluation.cw.steps=1'"
    names = {"source": "natural", "target": "pgd_at"}
    needs = [f"needs.{one}.run=['method=f2at/{name}',{short}]" for one, name in names.items()]
    code, printed = call("method=f2at/transfer", *small, *needs, f"paths.outputs={tmp_path}", "method.attack.steps=3")
    assert code == 0, printed
    assert len(list(tmp_path.glob("f2at/*/*/result.json"))) == 3
    metrics = metrics_of(tmp_path, "transfer*")
    assert metrics["test/white_acc"] <= metrics["test/transfer_acc"] + 0.1
    assert metrics["test/transfer_acc"] <= metrics["test/acc"] + 0.1
    (target,) = tmp_path.glob("f2at/pgd_at*/*/result.json")
    assert metrics["test/acc"] == json.loads(target.read_text())["metrics"]["test/acc"]
