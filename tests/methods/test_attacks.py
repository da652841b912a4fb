"""Attacks against foolbox, formulas written out, and what must hold for every one of them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, softmax

from methods.attacks import FGSM, PGD, NoAttack, ce_loss, kl_loss, margin_loss, mode_of, project, smooth
from tests.methods.networks import batch, small_network

ATTACKS = {
    "fgsm": FGSM(0.1),
    "pgd": PGD(0.1, 0.03, 5),
    "restarts": PGD(0.1, 0.03, 3, restarts=3),
    "cw": PGD(0.1, 0.03, 5, loss="margin"),
    "trades": PGD(0.1, 0.03, 5, loss="kl", start="gaussian"),
    "mim": PGD(0.1, 0.03, 5, momentum=1.0),
    "dim": PGD(0.1, 0.03, 5, momentum=1.0, diversity=0.7),
    "tim": PGD(0.1, 0.03, 5, momentum=1.0, kernel_size=5),
    "l2": PGD(0.5, 0.2, 5, norm="l2"),
    "friendly": PGD(0.1, 0.03, 5, tau=0),
    "train mode": PGD(0.1, 0.03, 5, train_mode=True),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacked_images_lie_in_the_ball_and_in_the_unit_cube(name):
    attack, network, (x, y) = ATTACKS[name], small_network(), batch()
    adv = attack(network, x, y)
    assert adv.min() >= 0
    assert adv.max() <= 1
    difference = (adv - x).flatten(1)
    size = difference.abs().amax(1) if attack.norm == "linf" else difference.norm(dim=1)
    assert size.max() <= attack.eps + 1e-6
    assert not adv.requires_grad


@pytest.mark.parametrize("name", ATTACKS)
def test_weights_get_no_gradient_and_keep_their_values_and_mode(name):
    network, (x, y) = small_network().train(), batch()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ATTACKS[name](network, x, y)
    assert network.training
    assert all(weight.grad is None for weight in network.parameters())
    changed = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
    assert all("running" in key or "num_batches" in key for key in changed)
    assert bool(changed) == (name == "train mode")


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "friendly"])
def test_attacks_ascend_their_loss(name):
    attack, network, (x, y) = ATTACKS[name], small_network(), batch()
    target = softmax(network(x), dim=1).detach() if attack.loss == "kl" else y
    loss = {"ce": ce_loss, "margin": margin_loss, "kl": kl_loss}[attack.loss]
    with torch.no_grad():
        assert loss(network(attack(network, x, y)), target).mean() > loss(network(x), target).mean()


def test_attacks_work_where_gradients_are_off():
    network, (x, y) = small_network(), batch()
    torch.manual_seed(1)
    expected = ATTACKS["pgd"](network, x, y)
    with torch.inference_mode():
        torch.manual_seed(1)
        assert torch.equal(ATTACKS["pgd"](network, x.clone(), y.clone()), expected)


def test_losses_against_their_formulas():
    torch.manual_seed(0)
    logits, y = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.allclose(ce_loss(logits, y), cross_entropy(logits, y, reduction="none"))
    for row, label, value in zip(logits, y, margin_loss(logits, y), strict=True):
        assert value == max(z for i, z in enumerate(row) if i != label) - row[label]
    clean = softmax(torch.randn(6, 5, dtype=torch.float64), dim=1)
    p = softmax(logits, dim=1)
    assert torch.allclose(kl_loss(logits, clean), (clean * (clean / p).log()).sum(1))
    assert kl_loss(logits, clean).sum() == pytest.approx(float(kl_div(p.log(), clean, reduction="sum")))


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from(["linf", "l2"]), st.floats(0.01, 1))
def test_projection_gives_the_nearest_point(seed, norm, eps):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    moved = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    found = project(moved, x, eps, norm)
    assert ((found >= 0) & (found <= 1)).all()
    assert torch.allclose(project(found, x, eps, norm), found)
    if norm == "linf":  # nearest: of points in the box each coordinate is clamped by itself
        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        assert torch.equal(found, torch.minimum(torch.maximum(moved, low), high))
    else:
        assert ((found - x).flatten(1).norm(dim=1) <= eps + 1e-12).all()


def test_pgd_equals_foolbox():
    foolbox = pytest.importorskip("foolbox")
    network, (x, y) = small_network(), batch(n=40)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    for steps in (1, 7):
        theirs = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=steps, random_start=False)
        _, expected, _ = theirs(model, x, y, epsilons=0.06)
        ours = PGD(0.06, 0.02, steps, start="none")(network, x, y)
        assert torch.allclose(ours, expected, atol=1e-6)
    theirs = foolbox.attacks.L2PGD(abs_stepsize=0.2, steps=5, random_start=False)
    _, expected, _ = theirs(model, x, y, epsilons=0.7)
    assert torch.allclose(PGD(0.7, 0.2, 5, norm="l2", start="none")(network, x, y), expected, atol=1e-5)
    _, expected, _ = foolbox.attacks.FGSM(random_start=False)(model, x, y, epsilons=0.05)
    assert torch.allclose(FGSM(0.05)(network, x, y), expected, atol=1e-6)


def test_random_starts_fill_the_ball():
    x = torch.full((2000, 1, 2, 2), 0.5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    y = torch.zeros(2000, dtype=torch.long)
    torch.manual_seed(0)
    difference = PGD(0.1, 0.0, 1)(network, x, y) - x
    assert difference.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    length = (PGD(0.1, 0.0, 1, norm="l2")(network, x, y) - x).flatten(1).norm(dim=1) / 0.1
    assert (length**4).mean() == pytest.approx(0.5, abs=0.03)  # uniform in four dimensions
    gaussian = PGD(0.1, 0.0, 1, start="gaussian")(network, x, y) - x
    assert gaussian.std() == pytest.approx(0.001, rel=0.05)


def test_a_gaussian_start_is_not_clipped_before_the_first_step():
    """The published loop of TRADES (yaodongyu/TRADES, trades_loss), on images with values at 0 and 1."""
    network, (x, y) = small_network(), batch()
    x = x.round()
    torch.manual_seed(2)
    expected = x + 0.001 * torch.randn_like(x)
    clean = softmax(network(x), dim=1).detach()
    for _ in range(3):
        expected.requires_grad_()
        loss = kl_div(network(expected).log_softmax(1), clean, reduction="sum")
        gradient = torch.autograd.grad(loss, expected)[0]
        expected = expected.detach() + 0.007 * gradient.sign()
        expected = torch.min(torch.max(expected, x - 0.031), x + 0.031).clamp(0, 1)
    torch.manual_seed(2)
    assert torch.equal(PGD(0.031, 0.007, 3, start="gaussian", loss="kl")(network, x, y), expected)
    torch.manual_seed(2)
    stopped = PGD(0.031, 0.007, 3, start="gaussian", tau=0)(network, x, (network(x).argmax(1) + 1) % 4)
    assert stopped.min() >= 0
    assert stopped.max() <= 1


def test_noise_is_added_to_each_step():
    """One step of earlystop in zjfheart/Friendly-Adversarial-Training, where no image is misclassified."""
    network, (x, _) = small_network(), batch()
    y = network(x).argmax(1)
    start = x.clone().requires_grad_()
    gradient = torch.autograd.grad(cross_entropy(network(start), y), start)[0]
    torch.manual_seed(3)
    expected = x + 0.007 * gradient.sign() + 0.001 * torch.randn_like(x)
    expected = torch.min(torch.max(expected, x - 0.031), x + 0.031).clamp(0, 1)
    torch.manual_seed(3)
    adv = PGD(0.031, 0.007, 1, start="none", tau=0, step_noise=0.001)(network, x, y)
    torch.testing.assert_close(adv, expected)


def test_memory_layouts_differ_in_signs_of_small_gradients_alone():
    network, (x, y) = small_network(channels=3, size=16), batch(n=200, channels=3, size=16)
    attack = PGD(8 / 255, 2 / 255, 5, start="none")
    contiguous = attack(network, x, y)
    strided = x.contiguous(memory_format=torch.channels_last)
    last = attack(copy.deepcopy(network).to(memory_format=torch.channels_last), strided, y)
    apart = (last - contiguous).abs() > 1e-3
    assert apart.float().mean() < 0.05
    with torch.no_grad():
        losses = [ce_loss(network(adv), y) for adv in (contiguous, last)]
        accuracies = [(network(adv).argmax(1) == y).float().mean() for adv in (contiguous, last)]
    assert (losses[0] - losses[1]).abs().max() < 0.05 * losses[0].mean()
    assert abs(accuracies[0] - accuracies[1]) <= 0.01


def test_no_attack_ignores_what_is_set_for_attacks():
    network, (x, y) = small_network(), batch()
    assert NoAttack(eps=0.1, steps=3)(network, x, y) is x


def test_more_restarts_never_find_less():
    network, (x, y) = small_network(), batch(n=40)
    torch.manual_seed(0)
    one = PGD(0.1, 0.05, 2)(network, x, y)
    torch.manual_seed(0)
    five = PGD(0.1, 0.05, 2, restarts=5)(network, x, y)
    with torch.no_grad():
        one, five = ce_loss(network(one), y), ce_loss(network(five), y)
    assert (five >= one - 1e-6).all()
    assert (five > one + 1e-6).any()


def test_friendly_attacks_stop_at_the_first_mistake():
    network, (x, _) = small_network(), batch(n=40)
    y = network(x).argmax(1)
    plain, friendly = (PGD(0.3, 0.05, 10, start="none", tau=tau) for tau in (None, 0))
    with torch.no_grad():
        margins = [margin_loss(network(attack(network, x, y)), y) for attack in (plain, friendly)]
    wrong = margins[1] > 0
    assert wrong.any()
    assert margins[1][wrong].mean() < margins[0][wrong].mean()
    right_first = PGD(0.3, 0.05, 10, start="none", tau=10)
    assert torch.equal(right_first(network, x, y), plain(network, x, y))


def test_smoothing_is_a_convolution_with_a_normalised_gaussian():
    gradient = torch.zeros(1, 2, 9, 9)
    gradient[0, 1, 4, 4] = 1.0
    smoothed = smooth(gradient, 5)
    assert smoothed[0, 0].abs().max() == 0
    assert smoothed[0, 1].sum() == pytest.approx(1.0, abs=1e-6)
    line = torch.exp(-(torch.linspace(-3, 3, 5) ** 2) / 2)
    expected = torch.outer(line, line) / torch.outer(line, line).sum()
    assert torch.allclose(smoothed[0, 1, 2:7, 2:7], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 8}, "8/255 is 0.0314"),
        ({"eps": -0.1}, "units of images"),
        ({"steps": 0}, "steps >= 1"),
        ({"norm": "l1"}, "norm must be one of linf, l2"),
        ({"start": "cold"}, "start must be one of"),
        ({"loss": "mse"}, "loss must be one of ce, margin, kl"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"kernel_size": -1}, "kernel_size must be odd"),
        ({"step_noise": -1}, "step_noise >= 0"),
        ({"momentum": -1.0}, "momentum >= 0"),
        ({"diversity": 1.5}, r"diversity in \[0, 1\]"),
        ({"tau": -1}, "tau >= 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PGD(**{"eps": 0.1, "step_size": 0.1, "steps": 1} | arguments)


def test_a_mode_is_put_back_when_it_fails():
    network = small_network()
    with pytest.raises(KeyError), mode_of(network, True):
        raise KeyError
    assert not network.training
