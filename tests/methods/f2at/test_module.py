"""Adversarial training from the command line on real digits: metrics, figures, resumption, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from methods.attacks import PGD, NoAttack
from methods.f2at.awp import WeightPerturbation
from methods.f2at.evaluation import contradictions, correct, load_trained
from methods.f2at.lbgat import LBGAT
from methods.f2at.lr_schedules import PiecewiseLinear
from methods.f2at.module import AdversarialTraining
from methods.f2at.objective import Objective
from methods.memory_format import preferred_memory_format
from runner.config.address import Run
from tests.methods.networks import batch, small_network
from tests.methods.resumption import check_killed_run_goes_on

DIGITS = [
    *("dataset=digits", "model=smallcnn", "logger=csv", "threads=1", "method.eps=0.1", "method.step_size=0.03"),
    *("dataset.limit_train=240", "dataset.limit_test=60", "dataset.holdout=40", "dataset.batch_size=40"),
    *("model.widths=[8,12]", "schedule.max_epochs=2", "method.train_attack.steps=2", "method.val_attack.steps=2"),
    *("~method.test_attacks.pgd100", "method.test_attacks.cw.steps=3", "method.test_attacks.pgd20.steps=3"),
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
RECONSTRUCTIONS = ["f2at"] + [f"f2at/reconstruction_{name}" for name in ("a_natural", "a_perturbed", "b", "c")]


def metrics_of(outputs: Path, name: str = "*") -> dict[str, float]:
    (path,) = outputs.glob(f"f2at/{name}/*/result.json")
    return json.loads(path.read_text())["metrics"]


@pytest.mark.slow
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


@pytest.mark.slow
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
    run += ["method.weight_perturbation={_target_: methods.f2at.awp.WeightPerturbation, gamma: 0.01}"]
    check_killed_run_goes_on(call, spawn, tmp_path, run, 4)


@pytest.mark.slow
def test_a_run_that_was_killed_in_its_test_still_knows_its_last_weights(call, tmp_path):
    run = ["method=f2at/pgd_at", *DIGITS, f"paths.outputs={tmp_path}"]
    assert call(*run)[0] == 0
    metrics = metrics_of(tmp_path)
    (result,) = tmp_path.rglob("result.json")
    result.unlink()
    assert call(*run)[0] == 0
    assert metrics_of(tmp_path) == metrics


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["method.eps=8"], ["8/255 is 0.0314"]),
        (["method.eps_curve=[0.1,8]"], ["method.eps_curve", "8/255 is 0.0314"]),
        (["dataset.holdout=0"], ["method.monitor=val/adv_acc needs images to validate on", "method.monitor=null"]),
        (["method.val_attack=null"], ["method.monitor=val/adv_acc needs an attack to validate with"]),
        (["+method.test_attacks.aa={_target_: methods.autoattack.AutoAttack, eps: 8}"], ["8/255 is 0.0314"]),
        (["method.lr=0"], ["method.lr must be positive"]),
        (["method.ema_decay=1"], ["method.ema_decay must lie in"]),
        (["+method.attack_limits.nonsense=5"], ["method.attack_limits names no attack", "nonsense"]),
        (["method=f2at", "method.objective.bit_planes.k=8"], ["1..7"]),
        (
            ["method=f2at", "method.objective.natural_weight=-1"],
            ["method.objective.natural_weight must not be negative"],
        ),
        (["model=lenet5"], ["LeNet"]),
        (["method=graphnorm"], ["the data set is for image-classification"]),
    ],
)
def test_a_mistake_ends_in_one_message(call, tmp_path, arguments, messages):
    method = [] if arguments[0].startswith("method=") else ["method=f2at/pgd_at"]
    base = [o for o in DIGITS if not ("model=lenet5" in arguments and o.startswith(("model.", "model=")))]
    if "method=graphnorm" in arguments:
        base = ["dataset=digits", "model=smallcnn", "logger=csv"]
    code, printed = call(*method, *base, *arguments, f"paths.outputs={tmp_path}")
    assert code == 2
    assert all(words in printed for words in messages), printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("result.json"))


PAPER_SETTINGS = {  # of the published training commands
    "awp": {"model": "preact_resnet18", "epochs": 200, "drops": [100, 150], "decay": 5e-4, "attack": (8, 2, 10)},
    "trades_awp": {"model": "resnet18", "epochs": 200, "drops": [99, 149], "decay": 5e-4, "attack": (8, 2, 10)},
    "hat": {"model": "resnet18", "epochs": 50, "drops": [0, 12.5, 50], "decay": 5e-4, "attack": (8, 2, 10)},
}


@pytest.mark.parametrize("method", PAPER_SETTINGS)
def test_settings_are_those_of_the_published_commands(method):
    run = Run.compose([f"method=f2at/{method}"])
    cfg, expected = run.cfg, PAPER_SETTINGS[method]
    assert run.choices["model"] == expected["model"]
    assert cfg.schedule.max_epochs == cfg.method.lr_schedule.total_epochs == expected["epochs"]
    assert cfg.method.lr_schedule.epochs == expected["drops"]
    assert cfg.method.weight_decay == expected["decay"]
    attack = cfg.method.train_attack
    assert (255 * attack.eps, 255 * attack.step_size, attack.steps) == pytest.approx(expected["attack"])
    if method == "hat":
        assert (cfg.method.objective.h, cfg.method.lr, cfg.method.nesterov) == (2.0, 0.21, True)
        assert cfg.method.momentum_schedule.factors == [0.95, 0.85, 0.95]
    else:
        assert cfg.method.weight_perturbation.gamma == {"awp": 0.01, "trades_awp": 0.005}[method]
    assert Run.compose(["method=f2at/fat"]).cfg.method.train_attack.step_noise == 0.001


def fit(module, steps=4, **trainer):
    """Train on batches of 12 images; returns the trainer."""
    batches = [SimpleNamespace(x=x, y=y) for x, y in (batch(seed=i) for i in range(steps))]
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, enable_model_summary=False, **settings, **trainer)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer


def test_gradients_are_clipped_and_accumulated_with_perturbed_and_averaged_weights():
    torch.manual_seed(0)
    network = small_network().train()
    before = [p.detach().clone() for p in network.parameters()]
    settings = {"weight_decay": 0.0, "momentum": 0.0, "lr": 0.1, "ema_decay": 0.9, "monitor": None}
    perturbation = WeightPerturbation(gamma=0.01)
    module = AdversarialTraining(network, Objective(), PGD(0.1, 0.03, 1), weight_perturbation=perturbation, **settings)
    trainer = fit(module, accumulate_grad_batches=2, gradient_clip_val=0.01)
    assert trainer.global_step == 2
    assert int(module.ema.steps) == 2  # one for each step of the optimizer, not for each batch
    moved = sum((p - b).square().sum() for p, b in zip(network.parameters(), before, strict=True)).sqrt()
    assert 0 < moved <= 2 * 0.1 * 0.01 * 1.01


def test_momentum_follows_its_schedule():
    seen = []

    class Recorder(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append(optimizer.param_groups[0]["momentum"])

    schedule = PiecewiseLinear(epochs=[0, 1], factors=[0.9, 0.5], total_epochs=1)
    module = AdversarialTraining(small_network(), Objective(), NoAttack(), momentum_schedule=schedule, nesterov=True)
    fit(module, callbacks=[Recorder()])
    assert seen == pytest.approx([0.9, 0.8, 0.7, 0.6])


@pytest.mark.parametrize(
    ("device", "capability", "channels_last", "expected"),
    [
        ("cpu", "AVX512", None, torch.contiguous_format),
        ("cpu", "AVX2", None, torch.channels_last),
        ("cuda", "AVX512", None, torch.channels_last),
        ("cpu", "AVX512", True, torch.channels_last),
        ("cpu", "AVX2", False, torch.contiguous_format),
    ],
)
def test_the_memory_layout_follows_the_device(monkeypatch, device, capability, channels_last, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert preferred_memory_format(torch.device(device), channels_last) == expected


def test_every_part_of_the_module_has_the_memory_layout():
    for channels_last in (False, True):
        settings = {"ema_decay": 0.9, "channels_last": channels_last, "monitor": None}
        module = AdversarialTraining(small_network(), LBGAT(), PGD(0.1, 0.03, 1), **settings)
        fit(module, steps=1)
        networks = (module.network, module.objective.teacher, module.ema.network)
        weights = [network.layers[3].weight for network in networks]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert all(weight.is_contiguous(memory_format=layout) for weight in weights)


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


def test_weights_of_another_run_are_loaded(tmp_path):
    for ema_decay in (None, 0.9):
        module = AdversarialTraining(small_network(seed=1), Objective(), PGD(0.1, 0.03, 1), ema_decay=ema_decay)
        with torch.no_grad():
            module.network.head.weight.add_(1)
        torch.save({"state_dict": module.state_dict()}, tmp_path / "one.ckpt")
        loaded = load_trained(tmp_path / "one.ckpt", small_network(seed=2))
        assert torch.equal(loaded.head.weight, module.eval_network.head.weight)


@pytest.mark.slow
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


@pytest.mark.slow
def test_attacks_pass_from_one_run_to_another(call, tmp_path):
    small = [o for o in DIGITS if o.startswith(("dataset", "model", "logger", "threads"))]
    short = "'schedule.max_epochs=1','method.train_attack.steps=1',"
    short += "'method.test_attacks.pgd100=null','method.test_attacks.cw.steps=1'"
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
