"""Both routes of the meta gradient against each other, finite differences, and its sum over layers, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from methods.famus.gates import Gate, Gates, pool_gradient, standardize
from methods.famus.losses import LDAM, focal_losses
from methods.famus.meta_gradient import (
    ALIGNMENT_LOSSES,
    GATE_GRADIENTS,
    VirtualStep,
    WeightedBatch,
    code_alignment_loss,
    cross_entropies,
    forward_mode_meta_gradient,
    meta_derivatives,
    paper_alignment_loss,
    per_sample_losses,
    sgd_offset,
    sgd_step,
    unrolled_meta_gradient,
)
from methods.famus.mw_net import WeightNet
from methods.famus.sample_weights import mean_weights, normalized_weights
from tests.methods.networks import batch, small_network

LR = 0.3


def scene():
    network = small_network().double().train()
    psi = WeightNet(7).double()
    params = dict(network.named_parameters())
    (x, y), (xv, yv) = batch(seed=1), batch(seed=2, n=9)
    return network, psi, params, (x.double(), y), (xv.double(), yv)


def first_order(network, psi, params, train, normalise, graph=False, loss=cross_entropies):
    """Shares of the samples, and the gradients of their weighted loss, with a graph or without."""
    losses = per_sample_losses(network, params, *train, loss)
    weights = (normalized_weights if normalise else mean_weights)(psi(losses))
    return weights, WeightedBatch(*train, losses, weights, loss).gradients(params, graph)


def slopes_of(network, params, gradients, train, val, **settings):
    """The meta gradient with respect to the sample weights, by forward mode."""
    x, y = train
    step = VirtualStep(LR, **settings)
    return forward_mode_meta_gradient(network, params, gradients, x, lambda z: cross_entropies(z, y), val, step)[1]


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def both_routes(normalise=True, choice=None, train_loss=cross_entropies, start=None, **terms):
    """The gradients with respect to the weight net and the gates by either route. start: parameters -> where from."""
    network, psi, params, train, val = scene()
    begin = params if start is None else start(params)
    names = list(params)
    gates = {} if choice is None else {n: torch.tensor(float(c), dtype=torch.float64) for n, c in choice.items()}
    results = []
    for route in ("step", "direction"):
        opened = None if choice is None else {n: g.clone().requires_grad_() for n, g in gates.items()}
        always = names[-2:] if choice is not None else ()
        share, gradients = first_order(network, psi, params, train, normalise, route == "step", train_loss)
        step = VirtualStep(LR, opened, always, **terms)
        if route == "step":
            loss = target = unrolled_meta_gradient(network, begin, gradients, val, step)
        else:
            loss, s, term = forward_mode_meta_gradient(
                network, params, gradients, train[0], lambda z: train_loss(z, train[1]), val, step, begin
            )
            target = (s * share).sum() + term
        inputs = [*psi.parameters(), *(opened or {}).values()]
        found = torch.autograd.grad(target, inputs, allow_unused=True)
        results.append((loss.detach(), flat([torch.zeros(()) if g is None else g for g in found])))
    return results


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("alignment", [0.0, 0.1])
@pytest.mark.parametrize("open_layers", ["all", "some", "none"])
@pytest.mark.parametrize("gate_grad", ["published", "consistent"])
def test_both_routes_agree(normalise, open_layers, alignment, form, gate_grad):
    names = list(dict(small_network().named_parameters()))[:-2]
    choice = {"all": None, "some": {n: i % 2 for i, n in enumerate(names)}, "none": dict.fromkeys(names, 0)}[
        open_layers
    ]
    terms = {
        "alignment_weight": alignment,
        "alignment_loss": ALIGNMENT_LOSSES[form],
        "straight_through": GATE_GRADIENTS[gate_grad],
    }
    (loss, one), (other_loss, other) = both_routes(normalise, choice, **terms)
    assert torch.allclose(loss, other_loss, atol=1e-12)
    assert one.abs().max() > 1e-8
    assert torch.allclose(one, other, rtol=0, atol=1e-10)


def margin_loss():
    loss = LDAM(scale=2.0)
    loss.set_class_counts(torch.tensor([50, 20, 5, 2]))
    return loss.double()


@pytest.mark.parametrize("train_loss", [margin_loss(), lambda z, y: focal_losses(z, y, 2.0)])
def test_both_routes_agree_on_other_training_losses(train_loss):
    (_, one), (_, other) = both_routes(alignment_weight=0.1, train_loss=train_loss)
    (_, plain), _ = both_routes(alignment_weight=0.1)
    assert torch.allclose(one, other, rtol=0, atol=1e-10)
    assert not torch.allclose(one, plain, rtol=0.01, atol=0)


def test_both_routes_agree_from_another_start():
    def further(params):
        return {name: 0.9 * p.detach() for name, p in params.items()}

    (loss, one), (other_loss, other) = both_routes(start=further)
    (plain, _), _ = both_routes()
    assert torch.allclose(loss, other_loss, atol=1e-12)
    assert torch.allclose(one, other, rtol=0, atol=1e-10)
    assert abs(loss - plain) > 1e-3


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_from_half_way_is_that_of_the_optimizer(nesterov):
    params = {name: p.detach().clone().requires_grad_() for name, p in small_network().named_parameters()}
    optimizer = torch.optim.SGD(params.values(), LR, 0.9, weight_decay=0.1, nesterov=nesterov)
    for _ in range(3):  # the first has no momentum yet
        gradients = {name: torch.randn_like(p) for name, p in params.items()}
        start, lr = sgd_offset(params, optimizer)
        expected = sgd_step(start, gradients, lr)
        for name, p in params.items():
            p.grad = gradients[name]
        optimizer.step()
        for name, p in params.items():
            torch.testing.assert_close(expected[name], p.detach())


def test_the_meta_gradient_against_finite_differences():
    network, psi, params, train, val = scene()

    def loss_after():
        _, gradients = first_order(network, psi, params, train, True)
        after = sgd_step({n: p.detach() for n, p in params.items()}, gradients, LR)
        return per_sample_losses(network, after, *val).mean().item()

    share, gradients = first_order(network, psi, params, train, True)
    s = slopes_of(network, params, gradients, train, val)
    (ours,) = torch.autograd.grad((s * share).sum(), [psi.layers[2].weight])
    weight, step = psi.layers[2].weight, 1e-5
    for i in range(7):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[0, i] += sign * step
            values.append(loss_after())
            with torch.no_grad():
                weight[0, i] -= sign * step
        assert ours[0, i].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-8)


def test_the_whole_gradient_is_the_sum_over_single_layers():
    network, psi, params, train, val = scene()
    share, gradients = first_order(network, psi, params, train, True, graph=True)
    loss = unrolled_meta_gradient(network, params, gradients, val, VirtualStep(LR))
    (whole,) = torch.autograd.grad(loss, [share], retain_graph=True)
    gradients = {name: g.detach() for name, g in gradients.items()}
    parts = torch.zeros_like(whole)
    for name in params:
        parts += slopes_of(network, params, gradients, train, val, gates={}, ungated=[name])
    assert torch.allclose(parts, whole, atol=1e-12)


@pytest.mark.parametrize("route", [0, 1])
def test_open_gates_change_nothing(route):
    names = list(dict(small_network().named_parameters()))[:-2]
    (loss, plain), (other, through) = both_routes()[route], both_routes(choice=dict.fromkeys(names, 1))[route]
    assert torch.equal(loss, other)
    assert torch.equal(plain, through[: len(plain)])


@pytest.mark.parametrize("layers", ["all", "classifier"])
def test_slopes_at_no_step_are_those_of_the_samples_own_weights(layers):
    """L2R: the derivative by each sample's weight at 0, by differentiating a step on their weighted losses."""
    network, _, params, train, val = scene()
    passed = [n for n in params if layers == "all" or n.startswith("head.")]
    weights = torch.zeros(len(train[1]), dtype=torch.float64, requires_grad=True)
    losses = per_sample_losses(network, params, *train)
    found = torch.autograd.grad((weights * losses).sum(), list(params.values()), create_graph=True)
    after = {n: p - LR * (g if n in passed else g.detach()) for (n, p), g in zip(params.items(), found, strict=True)}
    (wanted,) = torch.autograd.grad(per_sample_losses(network, after, *val).mean(), weights)
    still = {n: torch.zeros_like(p) for n, p in params.items()}
    more = {} if layers == "all" else {"gates": {}, "ungated": passed}
    s = slopes_of(network, params, still, train, val, **more)
    assert torch.allclose(s, wanted, rtol=0, atol=1e-12)


def test_buffers_stay_as_they_are():
    network, psi, params, train, val = scene()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    _, gradients = first_order(network, psi, params, train, True)
    unrolled_meta_gradient(network, params, gradients, val, VirtualStep(LR))
    slopes_of(network, params, gradients, train, val)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_sample_losses_are_those_of_the_network():
    network, _, params, (x, y), _ = scene()
    assert torch.allclose(per_sample_losses(network, params, x, y), cross_entropy(network(x), y, reduction="none"))


def test_alignment_is_the_distance_of_row_means():
    a, b = [torch.randn(4, 6), torch.randn(4)], [torch.randn(4, 6), torch.randn(4)]
    paper = sum((p.reshape(4, -1).mean(1) - q.reshape(4, -1).mean(1)).square().sum() for p, q in zip(a, b, strict=True))
    assert torch.allclose(paper_alignment_loss(a, b), paper)
    rows = (a[0].mean(1) - b[0].mean(1)).square() + (a[0].std(1) - b[0].std(1)).square()
    bias = (a[1].mean() - b[1].mean()).square() + (a[1].std() - b[1].std()).square()  # published: of the whole vector
    assert torch.allclose(code_alignment_loss(a, b), rows.mean() + bias)


def test_weights_sum_to_one_or_have_the_mean():
    v = torch.tensor([0.2, 0.6])
    assert torch.allclose(normalized_weights(v), torch.tensor([0.25, 0.75]))
    assert torch.allclose(mean_weights(v), v / 2)
    assert torch.equal(normalized_weights(torch.zeros(3)), torch.zeros(3))


def test_gates_are_zero_or_one_and_learn_to_meet_their_budget():
    network = small_network()
    torch.manual_seed(0)
    gates = Gates(network, budget=2)
    assert len(gates.names) == 6
    gradients = {n: torch.randn_like(p) for n, p in network.named_parameters()}
    optimizer = torch.optim.SGD(gates.parameters(), 0.1, 0.9)
    counts = []
    for _ in range(300):
        opened = gates(gradients)
        assert set(torch.stack(list(opened.values())).tolist()) <= {0.0, 1.0}
        counts.append(sum(r.item() for r in opened.values()))
        optimizer.zero_grad()
        (0.1 * gates.budget_loss(opened)).backward()
        optimizer.step()
    assert sum(counts[-100:]) / 100 == pytest.approx(2, abs=0.5)


def test_gates_of_the_last_layers_alone():
    network = small_network()
    names = [name for name, _ in network.named_parameters()]
    assert Gates(network, budget=1, eligible=5).names == names[-5:-2]
    with pytest.raises(ValueError, match=r"method\.gates\.budget=4 is not in \[0, 3\]"):
        Gates(network, budget=4, eligible=5)


@pytest.mark.parametrize(
    "settings", [{"hidden_layers": 0}, {"eligible": 0}, {"eligible": -1}, {"temperature": 0.0}, {"std_correction": -1}]
)
def test_gates_refuse_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=rf"method\.gates\.{next(iter(settings))}"):
        Gates(small_network(), budget=1, **settings)


def test_gradients_are_standardized_with_either_deviation():
    g = torch.randn(7)
    for correction in (0, 1):
        deviation = ((g - g.mean()).square().sum() / (7 - correction)).sqrt()
        torch.testing.assert_close(standardize(g, correction), (g - g.mean()) / deviation)
        assert standardize(torch.tensor([3.0]), correction).tolist() == [0.0]
    network = small_network()
    assert {gate.std_correction for gate in Gates(network, std_correction=1).gates} == {1}


def test_a_gate_sees_the_standardised_pool_gradient_gradient():
    g = torch.randn(5, 3, 2, 2)
    assert torch.allclose(pool_gradient(g), g.mean((1, 2, 3)))
    assert torch.equal(pool_gradient(g[:, 0, 0, 0]), g[:, 0, 0, 0])
    gate = Gate(5, hidden_layers=2)
    for scale, shift in ((1.0, 0.0), (50.0, 3.0)):
        torch.manual_seed(1)
        assert gate(scale * pool_gradient(g) + shift).item() in (0.0, 1.0)
    assert Gate(1)(torch.tensor([3.0])).item() in (0.0, 1.0)


@pytest.mark.parametrize("gate_grad", ["published", "consistent"])
@pytest.mark.parametrize("state", [0.0, 1.0])
def test_a_gate_learns_from_what_its_layer_does_to_the_loss(state, gate_grad):
    """Published: opening an open gate further takes its layer's step, opening a closed one takes it back."""
    network, psi, params, train, val = scene()
    _, gradients = first_order(network, psi, params, train, True)
    name, step = "head.weight", 1e-5
    opened = {name: torch.tensor(state, dtype=torch.float64, requires_grad=True)}
    step_settings = VirtualStep(LR, opened, ["head.bias"], straight_through=GATE_GRADIENTS[gate_grad])
    term = meta_derivatives(network, params, gradients, val, step_settings).gate_term
    (ours,) = torch.autograd.grad(term, opened[name])
    values = []
    for moved in (1 + step, 1 - step):
        after = sgd_step(params, gradients | {name: moved * gradients[name]}, LR)
        values.append(per_sample_losses(network, after, *val).mean().item())
    further = (values[0] - values[1]) / (2 * step)
    sign = -1 if gate_grad == "published" and not state else 1
    assert ours.item() == pytest.approx(sign * further, abs=1e-8)
    assert abs(further) > 1e-6
