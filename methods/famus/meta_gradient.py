"""Gradient of the validation loss after a virtual training step, with respect to the sample weights of that step.

Two routes give the same values:

- `unrolled_meta_gradient` differentiates the virtual step itself, as published code does: a second backward pass
  through the first one.
- `forward_mode_meta_gradient` needs no second-order graph. The meta gradient is a weighted sum of the derivatives of
  the per-sample losses along one direction in parameter space, and one Jacobian-vector product gives all of them.

Both restrict the gradient to the layers whose gates are open (FaMUS, equation 9). A layer is one parameter tensor. The
classifier is the module `head` of a network, so its tensors are those whose names begin with `head.`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.functional import cross_entropy
from torch.optim import SGD

Params = Mapping[str, Tensor]
"""Parameters, or their gradients, by name."""
Loss = Callable[[Tensor, Any], Tensor]
"""Per-sample loss: logits (n, K) and targets -> (n,)."""
AlignmentLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
StraightThrough = Callable[[Tensor, bool], Tensor]


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each sample.

    Shapes: logits (n, K), y (n,) classes or (n, K) distributions -> (n,).
    """
    return cross_entropy(logits, y, reduction="none")


def logits_at(network: nn.Module, params: Params, x: Tensor) -> Tensor:
    """Return the logits (n, K) of a network with other parameters; its own buffers do not change."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return functional_call(network, (dict(params), buffers), (x,))


def per_sample_losses(network: nn.Module, params: Params, x: Tensor, y: Any, loss: Loss = cross_entropies) -> Tensor:
    """Return the losses (n,) of a network with other parameters; its own buffers do not change."""
    return loss(logits_at(network, params, x), y)


def classifier_names(names: Iterable[str]) -> list[str]:
    """Return the names of the classifier's tensors, in their order."""
    return [name for name in names if name.startswith("head.")]


def gate_states(gates: Mapping[str, Tensor] | None) -> dict[str, bool]:
    """Return whether each gate is open; one transfer from the device for all gates."""
    if not gates:
        return {}
    return dict(zip(gates, (torch.stack(list(gates.values())) > 0.5).tolist(), strict=True))


def published_straight_through(gate: Tensor, is_open: bool) -> Tensor:
    """Return 1 with the gate gradient of the published code.

    A closed gate stands as 1 - gate, so its gradient has the opposite sign of that of an open gate.
    """
    return gate if is_open else 1 - gate


def consistent_straight_through(gate: Tensor, is_open: bool) -> Tensor:
    """Return 1 with a gate gradient of the same sign for open and closed gates (not in the paper)."""
    return gate if is_open else gate + (1 - gate).detach()


GATE_GRADIENTS: dict[str, StraightThrough] = {
    "published": published_straight_through,
    "consistent": consistent_straight_through,
}


def paper_alignment_loss(train: Sequence[Tensor], val: Sequence[Tensor]) -> Tensor:
    """Return the squared distance between the row means of two sets of gradients (equation 11).

    Args:
        train: gradients of the classifier's tensors on training data, the first dimension being the rows.
        val: the same on validation data; they are detached.
    """
    total = train[0].new_zeros(())
    for ours, theirs in zip(train, val, strict=True):
        a, b = (g.reshape(len(g), -1) for g in (ours, theirs.detach()))
        total = total + (a.mean(1) - b.mean(1)).square().sum()
    return total


def code_alignment_loss(train: Sequence[Tensor], val: Sequence[Tensor]) -> Tensor:
    """Return the alignment loss of the published code, which compares means and standard deviations.

    For the weight they are those of each row, averaged over the rows; for the bias those of the whole vector. Arguments
    as in `paper_alignment_loss`.
    """
    total = train[0].new_zeros(())
    for ours, theirs in zip(train, val, strict=True):
        a, b = (g.flatten(1) if g.dim() > 1 else g[None] for g in (ours, theirs.detach()))
        total = total + ((a.mean(1) - b.mean(1)).square() + (a.std(1) - b.std(1)).square()).mean()
    return total


ALIGNMENT_LOSSES: dict[str, AlignmentLoss] = {"paper": paper_alignment_loss, "code": code_alignment_loss}


@dataclass(frozen=True)
class VirtualStep:
    """Settings of a virtual step and of the meta loss after it.

    Attributes:
        lr: step size of the virtual step.
        gates: gate values, 0 or 1, by layer; a layer without a gate is closed unless it is `ungated`. None: every
            layer is open.
        ungated: names of the layers that are always open.
        alignment_weight: weight of the alignment loss (lambda_2, equation 12).
        alignment_loss: distance of the classifier's gradients on training and on validation data.
        straight_through: factor of value 1 that carries the gradient of a gate.
        val_loss: per-sample loss on validation data.
    """

    lr: float
    gates: Mapping[str, Tensor] | None = None
    ungated: Sequence[str] = ()
    alignment_weight: float = 0.0
    alignment_loss: AlignmentLoss = paper_alignment_loss
    straight_through: StraightThrough = published_straight_through
    val_loss: Loss = cross_entropies


@dataclass(frozen=True)
class WeightedBatch:
    """Training batch whose samples are weighted in the virtual step.

    Attributes:
        x: inputs (n, ...).
        targets: targets in the form that `loss` takes.
        losses: per-sample losses (n,) of the network, with their graph.
        weights: factors (n,) of the losses, with the graph to what is learned.
        loss: function that gave the losses.
    """

    x: Tensor
    targets: Any
    losses: Tensor
    weights: Tensor
    loss: Loss = cross_entropies

    def losses_of(self, logits: Tensor) -> Tensor:
        """Return the per-sample losses (n,) of other logits (n, K) for the same targets."""
        return self.loss(logits, self.targets)

    def gradients(self, params: Params, create_graph: bool) -> Params:
        """Return the gradients of the weighted loss by name; with `create_graph` they depend on the weights."""
        weights = self.weights if create_graph else self.weights.detach()
        total = (weights * self.losses).sum()
        grads = torch.autograd.grad(total, list(params.values()), retain_graph=True, create_graph=create_graph)
        return dict(zip(params, grads, strict=True))


class MetaDerivatives(NamedTuple):
    """First-order derivatives of the meta loss after a virtual step.

    Attributes:
        loss: meta loss, a scalar without a graph.
        direction: derivative of the meta loss by the gradient of each open layer.
        gate_term: scalar whose gradient with respect to the gates is that of the meta loss.
    """

    loss: Tensor
    direction: Params
    gate_term: Tensor


def sgd_step(params: Params, gradients: Params, lr: float) -> dict[str, Tensor]:
    """Return the parameters after one plain step of gradient descent."""
    return {name: p - lr * gradients[name] for name, p in params.items()}


def sgd_offset(params: Params, optimizer: SGD) -> tuple[dict[str, Tensor], float]:
    """Split the next step of SGD into a part without gradients and a plain step.

    Args:
        params: the parameters of the optimizer, by name.
        optimizer: SGD with one parameter group, with or without momentum, Nesterov's momentum and weight decay.

    Returns:
        The parameters moved by momentum and weight decay alone, and the step size such that a plain step from there is
        the optimizer's step.
    """
    (group,) = optimizer.param_groups
    lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    gradient_factor, buffer_factor = (1 + momentum, momentum**2) if group["nesterov"] else (1.0, momentum)
    start = {}
    for name, p in params.items():
        start[name] = p.detach() * (1 - lr * gradient_factor * decay)
        buffer = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
        if buffer is not None:
            start[name] = start[name] - lr * buffer_factor * buffer
    return start, lr * gradient_factor


def unrolled_meta_gradient(
    network: nn.Module, start: Params, gradients: Params, val: tuple[Tensor, Any], step: VirtualStep
) -> Tensor:
    """Return the meta loss with a graph through the virtual step (route of the published code).

    Args:
        network: network whose buffers and structure are used.
        start: parameters that the virtual step starts from.
        gradients: gradients of the weighted training loss, made with `create_graph`.
        val: inputs and targets of the validation batch.
        step: settings of the virtual step.

    Returns:
        Scalar: validation loss plus weighted alignment loss.
    """
    used = gradients if step.gates is None else gate_gradients(gradients, step)
    after = sgd_step({name: p.detach() for name, p in start.items()}, used, step.lr)
    loss = per_sample_losses(network, after, *val, step.val_loss).mean()
    if step.alignment_weight:
        last = classifier_names(start)
        theirs = torch.autograd.grad(loss, [after[name] for name in last], retain_graph=True)
        loss = loss + step.alignment_weight * step.alignment_loss([gradients[name] for name in last], theirs)
    return loss


def gate_gradients(gradients: Params, step: VirtualStep) -> dict[str, Tensor]:
    """Return the same gradients with a graph through open layers only, and to the gates (section 4.1)."""
    gates = step.gates or {}
    used, states = {}, gate_states(gates)
    for name, g in gradients.items():
        if name in step.ungated:
            used[name] = g
        elif name in gates:
            used[name] = step.straight_through(gates[name], states[name]) * (g if states[name] else g.detach())
        else:
            used[name] = g.detach()
    return used


def meta_derivatives(
    network: nn.Module, start: Params, gradients: Params, val: tuple[Tensor, Any], step: VirtualStep
) -> MetaDerivatives:
    """Compute the meta loss after a virtual step and its derivatives by the gradients of open layers and by the gates.

    Arguments as in `unrolled_meta_gradient`, but `gradients` without a graph. Closed layers below the lowest open one
    cost a forward pass only.
    """
    states = gate_states(step.gates)
    open_names = [n for n in start if step.gates is None or n in step.ungated or states.get(n)]
    needed = [n for n in start if n in open_names or n in states]
    after = {n: (p.detach() - step.lr * gradients[n]).requires_grad_(n in needed) for n, p in start.items()}
    loss = per_sample_losses(network, after, *val, step.val_loss).mean()
    slopes = dict(zip(needed, torch.autograd.grad(loss, [after[n] for n in needed]), strict=True))
    total, direction = loss.detach(), {n: -step.lr * slopes[n] for n in open_names}
    if step.alignment_weight:
        alignment, slope = _alignment_derivative(gradients, slopes, step)
        for n, g in slope.items():
            direction[n] = direction[n] + step.alignment_weight * g
        total = total + step.alignment_weight * alignment
    return MetaDerivatives(total, direction, _gate_term(gradients, slopes, states, step))


def _alignment_derivative(gradients: Params, slopes: Params, step: VirtualStep) -> tuple[Tensor, Params]:
    """Return the alignment loss, and its derivative by the classifier's gradients on training data."""
    last = classifier_names(gradients)
    ours = [gradients[n].detach().requires_grad_() for n in last]
    alignment = step.alignment_loss(ours, [slopes[n] for n in last])
    return alignment.detach(), dict(zip(last, torch.autograd.grad(alignment, ours), strict=True))


def _gate_term(gradients: Params, slopes: Params, states: Mapping[str, bool], step: VirtualStep) -> Tensor:
    """Return a scalar whose gradient by each gate is that of the meta loss."""
    term = next(iter(slopes.values())).new_zeros(())
    for n, gate in (step.gates or {}).items():
        product = -step.lr * (gradients[n] * slopes[n]).sum()
        term = term + step.straight_through(gate, states[n]) * product
    return term


def jvp_at(
    network: nn.Module, params: Params, direction: Params, outputs: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute outputs of the network and their derivative along a direction in parameter space, in one forward pass.

    Args:
        network: network whose buffers and structure are used.
        params: parameters at which the derivative is taken.
        direction: tangents by name; parameters that are missing stay fixed.
        outputs: function of the logits (n, K).
        x: inputs (n, ...).

    Returns:
        outputs(logits of x), and their derivative, of the same shape.
    """
    held = {n: p.detach() for n, p in params.items()}

    def moved(some: Params) -> Tensor:
        return outputs(logits_at(network, held | dict(some), x))

    primal, tangent = jvp(moved, ({n: held[n] for n in direction},), (dict(direction),))[:2]
    return primal, tangent


def forward_mode_meta_gradient(
    network: nn.Module,
    params: Params,
    gradients: Params,
    x: Tensor,
    losses: Callable[[Tensor], Tensor],
    val: tuple[Tensor, Any],
    step: VirtualStep,
    start: Params | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradient that `unrolled_meta_gradient` leads to, without differentiating the step.

    Args:
        network: network whose buffers and structure are used.
        params: its parameters, at which `gradients` were taken.
        gradients: gradients of the weighted training loss, without a graph.
        x: training inputs (n, ...).
        losses: per-sample training losses as a function of the logits.
        val: inputs and targets of the validation batch.
        step: settings of the virtual step.
        start: parameters that the virtual step starts from; None: `params`.

    Returns:
        The meta loss; its gradient (n,) with respect to the sample weights; and a scalar whose gradient with respect
        to the gates is that of the meta loss.
    """
    loss, direction, gate_term = meta_derivatives(network, start or params, gradients, val, step)
    _, slopes = jvp_at(network, params, direction, losses, x)
    return loss, slopes.detach(), gate_term
