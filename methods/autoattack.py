"""AutoAttack (Croce & Hein 2020) by the package pyautoattack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.attacks import mode_of, plain


@dataclass(frozen=True)
class AutoAttack:
    """The standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, Square.

    Args:
        eps: radius, of images in [0, 1]. norm: `linf` or `l2`. batch_size: of its forward passes. seed: its own.

    Raises ModuleNotFoundError with what to install where the package is missing.
    """

    eps: float
    norm: Literal["linf", "l2"] = "linf"
    batch_size: int = 250
    seed: int = 0

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> as x."""
        try:
            from pyautoattack import AutoAttack as Attack
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'AutoAttack needs pyautoattack: pip install -c constraints.txt ".[adv]"'
            ) from error
        with mode_of(network, False), torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
            x, y = plain(x), plain(y)
            classes = network(x[:1]).shape[1]
            norm = {"linf": "Linf", "l2": "L2"}[self.norm]
            attack = Attack(network, norm=norm, eps=self.eps, seed=self.seed, version="standard", device=x.device)
            targets = min(9, classes - 1)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
            found, _ = attack.run_standard_evaluation(x, y, batch_size=self.batch_size)
        return found.detach()
