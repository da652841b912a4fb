"""GRDA, the optimizer that AutoFIS uses for its gates (Chao et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class GRDA(Optimizer):
    """Generalised regularised dual averaging: gradient steps whose sum is soft-thresholded, so that weights become 0.

        acc <- acc + [first step] a - lr * gradient
        threshold <- threshold + c lr^(1/2 + mu) ((t + 1)^mu - t^mu)
        a <- sign(acc) max(|acc| - threshold, 0)

    Args:
        params: parameters.
        lr: learning rate.
        c: size of the threshold.
        mu: growth of the threshold.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.005, c: float = 0.005, mu: float = 0.7) -> None:
        if lr <= 0 or c < 0 or not 0.5 < mu < 1:
            raise ValueError(f"GRDA needs lr > 0, c >= 0 and 0.5 < mu < 1, got lr={lr}, c={c}, mu={mu}")
        super().__init__(params, {"lr": lr, "c": c, "mu": mu})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: computes loss and gradients before the step; None: they are there.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, lr, mu = self.state[parameter], group["lr"], group["mu"]
        if not state:
            state["step"], state["threshold"] = 0, 0.0
            state["accumulator"] = parameter.clone()
        step = state["step"]
        state["accumulator"].sub_(parameter.grad, alpha=lr)
        state["threshold"] += group["c"] * lr ** (0.5 + mu) * ((step + 1) ** mu - step**mu)
        state["step"] = step + 1
        accumulator = state["accumulator"]
        parameter.copy_(accumulator.sign() * (accumulator.abs() - state["threshold"]).clamp_(min=0))
