"""MLC's matrix: its gradient against finite differences of the validation loss, and its step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from methods.famus.meta_gradient import VirtualStep, jvp_at, meta_derivatives
from methods.famus.mlc import transition_gradient, updated_transition
from tests.methods.networks import batch, small_network

LR = 0.4


def scene():
    network = small_network().double().train()
    (x, y), (xv, yv) = batch(seed=1), batch(seed=2, n=9)
    return network, dict(network.named_parameters()), (x.double(), y), (xv.double(), yv)


def loss_after(matrix, passed):
    """The validation loss after a step on the mean cross-entropy of logits T; of layers not in `passed`, at T = I."""
    network, params, (x, y), val = scene()
    buffers = {n: b.clone() for n, b in network.named_buffers()}
    steps = {}
    for name, t in (("with", matrix), ("without", torch.eye(4, dtype=torch.float64))):
        loss = cross_entropy(functional_call(network, (params, buffers), (x,)) @ t, y)
        steps[name] = torch.autograd.grad(loss, list(params.values()))
    after = {
        n: p - LR * (one if n in passed else other)
        for (n, p), one, other in zip(params.items(), steps["with"], steps["without"], strict=True)
    }
    return cross_entropy(functional_call(network, (after, buffers), (val[0],)), val[1]).item()


@pytest.mark.parametrize("layers", ["all", "classifier"])
def test_the_gradient_against_finite_differences(layers):
    network, params, (x, y), val = scene()
    passed = [n for n in params if layers == "all" or n.startswith("head.")]
    logits = network(x)
    found = torch.autograd.grad(cross_entropy(logits, y), list(params.values()), retain_graph=True)
    step = VirtualStep(LR) if layers == "all" else VirtualStep(LR, gates={}, ungated=passed)
    meta = meta_derivatives(network, params, dict(zip(params, found, strict=True)), val, step)
    _, change = jvp_at(network, params, meta.direction, lambda z: z, x)
    gradient = transition_gradient(logits, change, y)
    step = 1e-5
    for i in range(4):
        for j in range(4):
            values = []
            for sign in (1, -1):
                matrix = torch.eye(4, dtype=torch.float64)
                matrix[i, j] += sign * step
                values.append(loss_after(matrix, passed))
            assert gradient[i, j].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-8)


def test_the_step_clips_and_normalises_columns():
    gradient = torch.tensor([[9.0, 1.0, 0.0], [-2.0, 8.0, 0.0], [2.0, -3.0, 0.0]])
    raw = np.maximum(np.eye(3) - 0.2 * gradient.numpy(), 0)
    assert raw[0, 0] == raw[1, 1] == 0
    np.testing.assert_allclose(updated_transition(gradient, 0.2).numpy(), raw / raw.sum(0), rtol=1e-6)
    assert torch.equal(updated_transition(torch.zeros(3, 3), 0.2), torch.eye(3))
    assert torch.equal(updated_transition(torch.full((3, 3), 9.0), 1.0), torch.zeros(3, 3))
