"""AutoAttack (Croce & Hein 2020) by the package pyautoattack."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.attacks import plain, seeded

NORMS = {"linf": "Linf", "l2": "L2"}


@dataclass(frozen=True)
class AutoAttack:
    """The standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, Square.

    Args:
        eps: radius, of images in [0, 1]. norm: `linf` or `l2`. batch_size: of its forward passes. seed: its own.

    Raises ModuleNotFoundError with what to install where the package is missing, ValueError for arguments out of range.
    """

    eps: float
    norm: Literal["linf", "l2"] = "linf"
    batch_size: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        if importlib.util.find_spec("pyautoattack") is None:
            raise ModuleNotFoundError('AutoAttack needs pyautoattack: pip install -c constraints.txt ".[adv]"')
        if self.norm not in NORMS:
            raise ValueError(f"an attack's norm must be one of {', '.join(NORMS)}, got {self.norm}")
        if not 0 < self.eps <= (1.0 if self.norm == "linf" else float("inf")):
            raise ValueError(f"an attack's eps is in units of images in [0, 1], got {self.eps}; 8/255 is {8 / 255:.4f}")

    def check_classes(self, count: int) -> None:
        """Raises ValueError where there are too few classes for its targeted loss."""
        if count < 4:
            raise ValueError(f"AutoAttack compares four logits, and there are {count} classes")

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> as x."""
        from pyautoattack import AutoAttack as Attack

        with torch.inference_mode(False), torch.enable_grad(), seeded(self.seed, x.device):
            # It takes views of images and gradients, which channels_last has not.
            network = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)
            x, y = plain(x).contiguous(), plain(y)
            classes = network(x[:1]).shape[1]
            norm = NORMS[self.norm]
            attack = Attack(network, norm=norm, eps=self.eps, seed=self.seed, version="standard", device=x.device)
            targets = min(9, classes - 1)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
            found, _ = attack.run_standard_evaluation(x, y, batch_size=self.batch_size)
        return found.detach()
