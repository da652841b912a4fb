"""The gradient of a validation loss after a virtual step, with respect to what weighs the step's samples.

Two routes to the same values. `through_step` differentiates the step itself, as published code does: a second backward
pass through the first. `by_direction` needs no second-order graph: the gradient is a weighted sum of how each sample's
loss changes along one direction, which forward-mode differentiation gives for all samples at once.

A loss here takes logits (n, K) and targets, and gives (n,). Networks have their classifier's tensors below `head.`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.functional import cross_entropy
from torch.optim import SGD

Params = dict[str, Tensor]
Loss = Callable[[Tensor, Any], Tensor]


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """(n, K), classes (n,) or distributions (n, K) -> (n,)."""
    return cross_entropy(logits, y, reduction="none")


def logits_at(network: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What the network says with these parameters; its buffers stay as they are. -> (n, K)."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return functional_call(network, (dict(params), buffers), (x,))


def sample_losses(
    network: nn.Module, params: Mapping[str, Tensor], x: Tensor, y: Any, loss: Loss = cross_entropies
) -> Tensor:
    """The loss of each sample with these parameters; the network's buffers stay as they are. -> (n,)."""
    return loss(logits_at(network, params, x), y)


def of_the_classifier(names: Iterable[str]) -> list[str]:
    """The names of the classifier's own tensors."""
    return [name for name in names if name.startswith("head.")]


def which_open(opened: Mapping[str, Tensor] | None) -> dict[str, bool]:
    """The states of the gates, fetched from the device at once."""
    if not opened:
        return {}
    return dict(zip(opened, (torch.stack(list(opened.values())) > 0.5).tolist(), strict=True))


def passed(r: Tensor, is_open: bool, gate_grad: str) -> Tensor:
    """What a layer's gradient is multiplied by: 1, from which a gate (0 or 1) learns.

    gate_grad: `official`, as published: a closed gate stands as 1 - r, so that what opens an open one closes a closed
    one; `consistent`: both learn by the same sign.
    """
    if is_open:
        return r
    return 1 - r if gate_grad == "official" else r + (1 - r).detach()


def half_stepped(params: Mapping[str, Tensor], optimizer: SGD) -> tuple[Params, float]:
    """Where the optimizer's next step would go without gradients, by its momentum and weight decay alone; and how far
    it follows a gradient. The whole step is a plain one from there, of that length."""
    (group,) = optimizer.param_groups
    lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    own, kept = (1 + momentum, momentum**2) if group["nesterov"] else (1.0, momentum)
    start = {}
    for name, p in params.items():
        start[name] = p.detach() * (1 - lr * own * decay)
        buffer = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
        if buffer is not None:
            start[name] = start[name] - lr * kept * buffer
    return start, lr * own


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
    gradients: Params,
    val: tuple[Tensor, Any],
    lr: float,
    opened: Mapping[str, Tensor] | None = None,
    always: Sequence[str] = (),
    alignment: float = 0.0,
    form: str = "paper",
    gate_grad: str = "official",
    val_loss: Loss = cross_entropies,
) -> Tensor:
    """The validation loss after the step, with a graph to all that the gradients and gates depend on (published route).

    gradients: of the weighted training loss, made with `create_graph`. opened: gates by name, None for all layers;
    layers that have no gate and are not in `always` are closed. alignment: weight of `alignment_loss`. gate_grad: as in
    `passed`.
    """
    used = gradients if opened is None else gated(gradients, opened, always, gate_grad)
    after = stepped({name: p.detach() for name, p in params.items()}, used, lr)
    loss = sample_losses(network, after, *val, val_loss).mean()
    if alignment:
        last = of_the_classifier(params)
        theirs = torch.autograd.grad(loss, [after[name] for name in last], retain_graph=True)
        loss = loss + alignment * alignment_loss([gradients[name] for name in last], theirs, form)
    return loss


def gated(gradients: Params, opened: Mapping[str, Tensor], always: Sequence[str], gate_grad: str) -> Params:
    """The same values, with a graph through open layers alone, and to the gates (the paper's section 4.1)."""
    used, states = {}, which_open(opened)
    for name, g in gradients.items():
        if name in always:
            used[name] = g
        elif name in opened:
            used[name] = passed(opened[name], states[name], gate_grad) * (g if states[name] else g.detach())
        else:
            used[name] = g.detach()
    return used


def after_step(
    network: nn.Module,
    params: Params,
    gradients: Mapping[str, Tensor],
    val: tuple[Tensor, Any],
    lr: float,
    opened: Mapping[str, Tensor] | None = None,
    always: Sequence[str] = (),
    alignment: float = 0.0,
    form: str = "paper",
    gate_grad: str = "official",
    val_loss: Loss = cross_entropies,
) -> tuple[Tensor, Params, Tensor]:
    """The validation loss after a step along `gradients`; how it depends on them, by layer; and the gates' term.

    gradients: of the weighted training loss, without a graph. The second is the loss's derivative by each gradient
    that a layer's gate lets through: times the change of the gradients, it is the change of the loss. The gradient of
    the third with respect to the gates is theirs. The rest: as in `through_step`.
    """
    names, states = list(params), which_open(opened)
    open_names = names if opened is None else [n for n in names if n in always or states.get(n)]
    needed = set(open_names) | set(states)
    after = {n: (p.detach() - lr * gradients[n]).requires_grad_(n in needed) for n, p in params.items()}
    loss = sample_losses(network, after, *val, val_loss).mean()
    asked = [n for n in names if n in needed]
    slopes = dict(zip(asked, torch.autograd.grad(loss, [after[n] for n in asked]), strict=True))
    direction = {n: -lr * slopes[n] for n in open_names}
    total = loss.detach()
    if alignment:
        last = of_the_classifier(names)
        ours = [gradients[n].detach().requires_grad_() for n in last]
        apart = alignment_loss(ours, [slopes[n] for n in last], form)
        for n, g in zip(last, torch.autograd.grad(apart, ours), strict=True):
            direction[n] = direction[n] + alignment * g
        total = total + alignment * apart.detach()
    term = loss.new_zeros(())
    for n, r in (opened or {}).items():
        product = -lr * (gradients[n] * slopes[n]).sum()
        term = term + passed(r, states[n], gate_grad) * product
    return total, direction, term


def along(
    network: nn.Module, params: Params, direction: Params, outputs: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Tensor]:
    """outputs(logits of x), and how they change as the parameters named in `direction` move along it."""
    held = {n: p.detach() for n, p in params.items()}

    def moved(some: Params) -> Tensor:
        return outputs(logits_at(network, held | some, x))

    return jvp(moved, ({n: held[n] for n in direction},), (direction,))


def by_direction(
    network: nn.Module,
    params: Params,
    gradients: Mapping[str, Tensor],
    train: tuple[Tensor, Any],
    val: tuple[Tensor, Any],
    lr: float,
    loss: Loss = cross_entropies,
    start: Params | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `through_step` gives, without differentiating the step.

    gradients: of the weighted training loss, without a graph. loss: of training samples. start: where the step starts
    from, if not from `params`, which the gradients are of. more: as in `after_step`.
    Returns the validation loss after the step; s (n,), such that the gradient with respect to the shares is s; and a
    term whose gradient with respect to the gates is theirs. Layers below the lowest open one cost a forward pass alone.
    """
    total, direction, term = after_step(network, start or params, gradients, val, lr, **more)
    x, y = train
    _, s = along(network, params, direction, lambda logits: loss(logits, y), x)
    return total, s.detach(), term
