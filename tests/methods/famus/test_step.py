"""A whole training step of FaMUS against the paper's pseudo-code (sections 3 and 4.1), written anew, in float64."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from datasets.images.datamodule import Digits
from methods.famus.gates import Gates
from methods.famus.mw_net import MetaWeightNet, WeightNet
from tests.methods.networks import small_network

LR, META_LR, GATE_LR, DECAY, SEED, BUDGET = 0.05, 0.5, 0.1, 5e-4, 77, 2


class Recorded(MetaWeightNet):
    """Keeps what the step gets: both batches, and the parts of the method as they were before it."""

    def next_clean_batch(self):
        x, y = super().next_clean_batch()
        self.clean_batch = x.double(), y
        return self.clean_batch

    def training_step(self, batch, batch_idx):
        batch = batch._replace(x=batch.x.double())
        self.batch = batch.x, batch.y
        self.before = [copy.deepcopy(part) for part in (self.network, self.weight_net, self.gates)]
        torch.manual_seed(SEED)
        return super().training_step(batch, batch_idx)


def one_step(route: str) -> Recorded:
    data = Digits(size=8, batch_size=40, meta=5, drop_last=True, noise={"kind": "symmetric", "rate": 0.4})
    data.setup()
    sgd = partial(torch.optim.SGD, momentum=0.9)
    torch.manual_seed(3)
    module = Recorded(
        small_network(classes=10).train(),
        WeightNet(7),
        partial(sgd, lr=META_LR),
        gates=partial(Gates, budget=BUDGET),
        gate_optimizer=partial(sgd, lr=GATE_LR),
        alignment_weight=0.1,
        meta_gradient=route,
        meta_batch_size=20,
        lr=LR,
    ).double()
    module.prepare(data)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", limit_val_batches=0, enable_model_summary=False, **quiet)
    trainer.fit(module, data)
    return module


def by_the_paper(network, weight_net, gates, train, clean):
    """Moves the three by one step; the states of the gates."""
    (x, y), (x_clean, y_clean) = train, clean
    w = dict(network.named_parameters())

    def losses(params, images, labels):
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        return cross_entropy(functional_call(network, (params, buffers), (images,)), labels, reduction="none")

    def weights(costs):
        v = weight_net.layers(costs.detach()[:, None])[:, 0]
        return v / v.sum()

    costs = losses(w, x, y)
    g = dict(zip(w, torch.autograd.grad((weights(costs) * costs).sum(), w.values(), create_graph=True), strict=True))
    torch.manual_seed(SEED)
    r = gates({name: gradient.detach() for name, gradient in g.items()})
    through = {n: g[n] if n not in r else r[n] * g[n] if r[n] > 0.5 else (1 - r[n]) * g[n].detach() for n in g}
    virtual = {n: w[n].detach() - LR * through[n] for n in w}
    l_c = losses(virtual, x_clean, y_clean).mean()
    head, bias = torch.autograd.grad(l_c, [virtual["head.weight"], virtual["head.bias"]], retain_graph=True)
    l_r = (sum(r.values()) - BUDGET) ** 2
    l_g = (g["head.weight"].mean(1) - head.mean(1)).square().sum() + (g["head.bias"] - bias).square().sum()
    (l_c + 0.1 * l_r + 0.1 * l_g).backward(inputs=[*weight_net.parameters(), *gates.parameters()])
    with torch.no_grad():
        for part, lr in ((weight_net, META_LR), (gates, GATE_LR)):
            for p in part.parameters():
                p -= lr * p.grad
    loss = (weights(costs).detach() * losses(w, x, y)).sum()
    with torch.no_grad():
        for p, gradient in zip(w.values(), torch.autograd.grad(loss, list(w.values())), strict=True):
            p -= LR * (gradient + DECAY * p)
    return {int(state) for state in r.values()}


@pytest.mark.parametrize("route", ["unrolled", "forward_mode"])
def test_a_step_is_that_of_the_paper(route):
    module = one_step(route)
    expected = [copy.deepcopy(part) for part in module.before]
    assert by_the_paper(*expected, module.batch, module.clean_batch) == {0, 1}  # some layers open, some closed
    ours_now = module.network, module.weight_net, module.gates
    for ours, theirs, before in zip(ours_now, expected, module.before, strict=True):
        moved = 0.0
        for p, q, old in zip(ours.parameters(), theirs.parameters(), before.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-13)
            moved = max(moved, float((p - old).detach().abs().max()))
        assert moved > 1e-4
