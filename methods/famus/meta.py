"""The gradient of a validation loss after a virtual step, with respect to what weighs the step's samples.

Two routes to the same values. `through_step` differentiates the step itself, as published code does: a second backward
pass through the first. `by_direction` needs no second-order graph: the gradient is a weighted sum of how each sample's
loss changes along one direction, which forward-mode differentiation gives for all samples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.functional import cross_entropy

Params = dict[str, Tensor]
Losses = Callable[[nn.Module, Params, Tensor, Any], Tensor]


def sample_losses(network: nn.Module, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample with these parameters; the network's buffers stay as they are. -> (n,)."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return cross_entropy(functional_call(network, (dict(params), buffers), (x,)), y, reduction="none")


def stepped(params: Mapping[str, Tensor], gradients: Mapping[str, Tensor], lr: float) -> Params:
    """One plain step of gradient descent."""
    return {name: p - lr * gradients[name] for name, p in params.items()}


def alignment_loss(train: Sequence[Tensor], val: Sequence[Tensor], form: str = "paper") -> Tensor:
    """How far the last layer's gradients on training and validation data lie apart (equation 11).

    train, val: of its weight and bias. form: `paper`, squared distance of the row means; `code`, as published: mean
    over the rows of the squared differences of their means and standard deviations.
    """
    total = train[0].new_zeros(())
    for ours, theirs in zip(train, val, strict=True):
        a, b = (g.reshape(len(g), -1) for g in (ours, theirs.detach()))
        means = (a.mean(1) - b.mean(1)).square()
        if form == "paper":
            total = total + means.sum()
        elif a.shape[1] > 1:
            total = total + (means + (a.std(1) - b.std(1)).square()).mean()
        else:
            total = total + means.mean()
    return total


def through_step(
    network: nn.Module,
    params: Params,
    shares: Tensor,
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    lr: float,
    opened: Mapping[str, Tensor] | None = None,
    always: Sequence[str] = (),
    alignment: float = 0.0,
    form: str = "paper",
    train_losses: Losses = sample_losses,
    val_losses: Losses = sample_losses,
) -> Tensor:
    """The validation loss after the step, with a graph to shares and gates (published route).

    shares: (n,), the weights of the samples in the training loss, with a graph. opened: gates by name, None for all
    layers; layers that have no gate and are not in `always` are closed. train_losses, val_losses: network, parameters,
    images, targets -> (n,), those of the step and those whose mean is the validation loss.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    losses = train_losses(network, leaves, *train)
    found = torch.autograd.grad((shares * losses).sum(), list(leaves.values()), create_graph=True)
    gradients = dict(zip(leaves, found, strict=True))
    used = gradients if opened is None else gated(gradients, opened, always)
    after = stepped({name: p.detach() for name, p in params.items()}, used, lr)
    loss = val_losses(network, after, *val).mean()
    if alignment:
        last = list(leaves)[-2:]
        theirs = torch.autograd.grad(loss, [after[name] for name in last], retain_graph=True)
        loss = loss + alignment * alignment_loss([gradients[name] for name in last], theirs, form)
    return loss


def gated(gradients: Params, opened: Mapping[str, Tensor], always: Sequence[str]) -> Params:
    """The same values, with a graph through open layers alone, and to the gates (the paper's section 4.1)."""
    used = {}
    for name, g in gradients.items():
        if name in always:
            used[name] = g
        elif name in opened:
            r = opened[name]
            used[name] = r * g if r > 0.5 else (1 - r) * g.detach()
        else:
            used[name] = g.detach()
    return used


def by_direction(
    network: nn.Module,
    params: Params,
    gradients: Mapping[str, Tensor],
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    lr: float,
    opened: Mapping[str, Tensor] | None = None,
    always: Sequence[str] = (),
    alignment: float = 0.0,
    form: str = "paper",
    train_losses: Losses = sample_losses,
    val_losses: Losses = sample_losses,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `through_step` gives, without differentiating the step.

    gradients: of the weighted training loss, without a graph. Returns the validation loss after the step; s (n,), such
    that the gradient with respect to the shares is s; and a term whose gradient with respect to the gates is theirs.
    Layers below the lowest open one cost a forward pass alone.
    """
    names = list(params)
    open_names = names if opened is None else [n for n in names if n in always or (n in opened and opened[n] > 0.5)]
    needed = set(open_names) | set(opened or ())
    after = {n: (p.detach() - lr * gradients[n]).requires_grad_(n in needed) for n, p in params.items()}
    loss = val_losses(network, after, *val).mean()
    asked = [n for n in names if n in needed]
    slopes = dict(zip(asked, torch.autograd.grad(loss, [after[n] for n in asked]), strict=True))
    direction = {n: -lr * slopes[n] for n in open_names}
    total = loss.detach()
    if alignment:
        last = names[-2:]
        ours = [gradients[n].detach().requires_grad_() for n in last]
        apart = alignment_loss(ours, [slopes[n] for n in last], form)
        for n, g in zip(last, torch.autograd.grad(apart, ours), strict=True):
            direction[n] = direction[n] + alignment * g
        total = total + alignment * apart.detach()
    held = {n: p.detach() for n, p in params.items()}

    def moved(some: Params) -> Tensor:
        return train_losses(network, held | some, *train)

    (_, s) = jvp(moved, ({n: held[n] for n in direction},), (direction,))
    term = loss.new_zeros(())
    for n, r in (opened or {}).items():
        product = -lr * (gradients[n] * slopes[n]).sum()
        term = term + (r if r > 0.5 else 1 - r) * product
    return total, s.detach(), term
