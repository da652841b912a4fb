"""Two networks on digits without clean images: who trains when and on what, routes that must agree, resumption."""

from __future__ import annotations

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from datasets.images.datamodule import Digits
from methods.famus.codivide import clean_posterior, divide, normalized_losses
from methods.famus.dividemix import DivideMix
from methods.famus.mw_net import WeightNet
from methods.famus.network_pair import NetworkPair
from methods.famus.pseudo_clean import PseudoClean
from methods.famus.semi_supervised import semi_supervised_losses
from tests.methods.famus.test_module import metrics_of, rows_of
from tests.methods.networks import batch, small_network
from tests.methods.resumption import check_killed_run_goes_on

DIGITS = [
    *("dataset=digits", "model=smallcnn", "logger=csv", "threads=1", "model.widths=[8,12]", "dataset.limit_test=100"),
    *("dataset.batch_size=40", "dataset.limit_train=300", "method.warmup_epochs=1", "method.unlabeled_weight=5"),
]
META = ["method.meta_batch_size=30"]


class AllOpen(nn.Module):
    """Gates of which there are none: the meta gradient goes through every layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names, self.ungated = [], [name for name, _ in network.named_parameters()]

    def forward(self, gradients):
        return {}

    def budget_loss(self, gates):
        return torch.zeros(())


def digits(**more) -> Digits:
    settings = {"batch_size": 40, "limit_train": 300, "limit_test": 50, "noise": {"kind": "symmetric", "rate": 0.4}}
    data = Digits(size=8, **(settings | {"validate_on_test": True} | more))
    data.setup()
    return data


def trained(make, epochs: int = 2, watch: pl.Callback | None = None, **more):
    """The module after so many epochs, the first of them warm-up."""
    data = digits(**more)
    module = make(small_network(classes=10))
    module.prepare(data)
    pl.seed_everything(5, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch] if watch else [],
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    return module


def sgd(lr: float):
    return partial(torch.optim.SGD, lr=lr, momentum=0.9)


def pseudo(network: nn.Module, **more) -> PseudoClean:
    torch.manual_seed(1)
    settings = {
        "weight_net": partial(WeightNet, 7),
        "weight_net_optimizer": sgd(0.1),
        "meta_batch_size": 30,
        "warmup_epochs": 1,
    }
    return PseudoClean(network, **(settings | more))


def test_the_second_network_is_another_draw_of_the_first():
    network = small_network()
    pair = NetworkPair(network)
    first, second = pair.networks
    assert first is network
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values), name
    x, _ = batch()
    pair.eval()
    one, other = first(x), second(x)
    assert not torch.allclose(one, other)
    torch.testing.assert_close(pair(x), (one + other) / 2)


def posterior(losses: torch.Tensor) -> torch.Tensor:
    return clean_posterior(normalized_losses(losses))


class Watch(pl.Callback):
    """Which network each step changed, and what the division of an epoch was made from."""

    def __init__(self) -> None:
        self.changed: list[list[list[bool]]] = []

    def states(self, module):
        return [torch.cat([v.flatten().float() for v in one.state_dict().values()]) for one in module.pair]

    def on_train_epoch_start(self, trainer, module):
        self.changed.append([])
        if trainer.current_epoch:
            self.expected = module.per_sample_losses()

    def on_train_batch_start(self, trainer, module, number, index):
        self.before = self.states(module)
        if trainer.current_epoch and index == 0:
            for which, turn in enumerate(module.network_epochs):
                torch.testing.assert_close(turn.clean, posterior(self.expected[1 - which]))

    def on_train_batch_end(self, trainer, module, outputs, number, index):
        after = self.states(module)
        self.changed[-1].append([not torch.equal(a, b) for a, b in zip(self.before, after, strict=True)])


def test_one_network_trains_after_the_other_each_on_what_the_other_believes():
    watch = Watch()
    module = trained(lambda network: DivideMix(network, warmup_epochs=1), watch=watch)
    assert watch.changed[0] == [[True, False]] * 7 + [[False, True]] * 7  # 300 images in batches of 40
    first, second = (turn.steps for turn in module.network_epochs)
    assert watch.changed[1] == [[True, False]] * first + [[False, True]] * second
    for turn, other in zip(module.network_epochs, watch.expected.flip(0), strict=True):
        assert turn.steps == max(int((posterior(other) > 0.5).sum()) // 20, 1)


def test_batches_are_what_the_division_says():
    module = trained(pseudo)
    turn = module.network_epochs[0]
    with torch.no_grad():
        network, other = module.pair
        for labelled, unlabelled, valid in (
            (next(turn.labeled), next(turn.unlabeled), next(turn.validation)) for _ in range(4)
        ):
            assert [len(b.y) for b in (labelled, unlabelled, valid)] == [40, 40, 60]  # two views of each
            assert bool((turn.clean[labelled.index] > 0.5).all())
            assert bool((turn.clean[unlabelled.index] <= 0.5).all())
            assert bool((turn.clean[valid.index] > 0.5).all())
            assert torch.equal(labelled.index[:20], labelled.index[20:])
        x = unlabelled.x
        own = module.predict(network, x)
        torch.testing.assert_close(own, (softmax(network(x[:20]), 1) + softmax(network(x[20:]), 1)) / 2)
        other.eval()
        p = softmax(other(x), 1)
        mean = (own + (p[:20] + p[20:]) / 2) / 2
        expected = mean**2 / (mean**2).sum(1, keepdim=True)
        torch.testing.assert_close(module.guess(0, x, own), torch.cat([expected, expected]))


def test_losses_of_each_epoch_are_normalized_before_they_are_averaged():
    history = torch.rand(2, 50) * torch.tensor([[1.0], [30.0]])
    history[:, 25:] += torch.tensor([[3.0], [0.0]])  # only the first, which is small, tells two kinds apart
    low, high = history.amin(1, keepdim=True), history.amax(1, keepdim=True)
    expected = clean_posterior(((history - low) / (high - low)).double().mean(0))
    found = DivideMix._posterior(history)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(found, posterior(history.mean(0)), atol=0.1)


def test_pseudo_clean_epochs_go_through_the_larger_part_and_dividemix_through_the_labeled_one():
    pair, plain = trained(pseudo), trained(lambda network: DivideMix(network, warmup_epochs=1))
    for module, images in ((pair, max), (plain, lambda labeled, unlabeled: labeled)):
        for part in module.network_epochs:
            labeled = divide(part.clean, 0.5, 20, 270)
            assert part.steps == images(int(labeled.sum()), int((~labeled).sum())) // 20
        assert module.steps_of(15000, 35000) == images(15000, 35000) // 20


def test_the_weight_of_the_unlabeled_loss_rises_by_steps_and_for_pseudo_clean_by_epochs():
    pair, plain = trained(pseudo), trained(lambda network: DivideMix(network, warmup_epochs=1))
    since = plain.current_epoch - 1
    assert plain.ramp_epochs(0.75) == since + 0.75
    assert pair.ramp_epochs(0.75) == since


def test_guesses_of_labeled_images_are_those_of_both_networks_for_pseudo_clean():
    for make, refined_is_guess in ((pseudo, False), (lambda network: DivideMix(network, warmup_epochs=1), True)):
        module = trained(make)
        module.network.train()
        part = module.network_epochs[0]
        labeled, unlabeled = next(part.labeled), next(part.unlabeled)
        with torch.no_grad():
            refined, guessed = module.soft_targets(0, part, labeled, unlabeled)
            expected = module.guess(0, labeled.x, module.predict(module.pair[0], labeled.x))
        assert refined.shape == guessed.shape == (80, 10)
        assert torch.equal(refined, guessed) is refined_is_guess
        if not refined_is_guess:
            torch.testing.assert_close(guessed[:40], expected)


def test_losses_that_divide_are_of_the_images_as_they_are():
    module = trained(lambda network: DivideMix(network, warmup_epochs=1))
    data = module.trainer.datamodule
    module.eval()
    with torch.no_grad():
        expected = [
            cross_entropy(one(data.train_images.float() / 255), data.train_labels, reduction="none")
            for one in module.pair
        ]
    torch.testing.assert_close(module.per_sample_losses(), torch.stack(expected))


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.network.parameters()])


def test_all_gates_open_and_no_other_losses_is_mw_net():
    plain = trained(pseudo)
    opened = trained(partial(pseudo, gates=AllOpen, budget_weight=0.0))
    assert torch.equal(weights(plain), weights(opened))
    closed = trained(partial(pseudo, gates=lambda network: nothing_open(AllOpen(network))))
    assert not torch.equal(weights(plain), weights(closed))


def nothing_open(gates: AllOpen) -> AllOpen:
    gates.ungated = [name for name in gates.ungated if name.startswith("head.")]
    return gates


def test_both_routes_give_the_same_weights():
    found = [weights(trained(partial(pseudo, meta_gradient=route))) for route in ("forward_mode", "unrolled")]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_samples_of_one_weight_train_as_their_mean_does():
    module = trained(pseudo)
    turn = module.network_epochs[0]
    module.weight_nets[0].apply(zeroed)
    module.trainer.optimizers[1].param_groups[0]["lr"] = 0.0
    module.log = lambda *args, **more: None  # outside of the training loop there is no log
    mixture = module.mixed_batch(0, turn)
    logits = module.pair[0](mixture.x)
    losses = semi_supervised_losses(logits, mixture.refined, mixture.guessed, 3.0)
    found = module.loss_factors(0, mixture, 3.0, logits, losses)
    torch.testing.assert_close(found, torch.tensor([1 / 80] * 80 + [1.0]))


def zeroed(layer: nn.Module) -> None:
    for p in layer.parameters(recurse=False):
        p.data.zero_()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["famus/dividemix", "famus/mw_net_pseudo", "famus/famus_pseudo"])
def test_every_method_trains(call, tmp_path, method):
    more = [] if method == "famus/dividemix" else META
    code, printed = call(f"method={method}", *DIGITS, *more, "schedule.max_epochs=3", f"paths.outputs={tmp_path}")
    assert code == 0, printed
    metrics, rows = metrics_of(tmp_path), rows_of(tmp_path)
    assert metrics["test/acc"] == pytest.approx(rows[-1]["val/acc"])
    assert metrics["test/best_acc"] == pytest.approx(max(row["val/acc"] for row in rows))
    assert "train/labeled_fraction" not in rows[0]
    assert 0 < rows[1]["train/labeled_fraction"] <= 0.9
    assert rows[1]["train/loss_auc"] > 0.5
    assert ("train/meta_loss" in rows[1]) == (method != "famus/dividemix")
    if method == "famus/famus_pseudo":
        assert 0 <= rows[1]["train/open_gates"] <= 6


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_numbers(call, spawn, tmp_path):
    run = ["method=famus/famus_pseudo", *DIGITS, *META, "method.loss_history=3", "schedule.max_epochs=7"]
    check_killed_run_goes_on(call, spawn, tmp_path, run, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dataset.batch_size=41"], "dataset.batch_size=41 must be even"),
        (["dataset.batch_size=160"], "300 training images are too few for dataset.batch_size=160"),
        (["method.meta_batch_size=151"], "method.meta_batch_size=151 must be positive and at most half"),
        (["method.temperature=0"], "method.temperature must be positive"),
        (["method.warmup_epochs=-1"], "method.warmup_epochs must not be negative"),
        (
            ["method.meta_gradient=backward"],
            "method.meta_gradient=backward is unknown; choose from forward_mode, unrolled",
        ),
        (["method.gate_optimizer=null"], "method.gates needs method.gate_optimizer"),
    ],
)
def test_a_mistake_ends_in_one_message(call, tmp_path, arguments, said):
    code, printed = call("method=famus/famus_pseudo", *DIGITS, *META, *arguments, f"paths.outputs={tmp_path}")
    assert code == 2
    assert said in printed, printed
    assert "Traceback" not in printed
