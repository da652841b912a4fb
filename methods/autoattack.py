"""AutoAttack (Croce & Hein 2020) by the package pyautoattack."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.attacks import check_eps, detached, seeded
from methods.memory_format import to_memory_format

NORMS = {"linf": "Linf", "l2": "L2"}


@dataclass(frozen=True)
class AutoAttack:
    """Standard ensemble of AutoAttack: APGD-CE, targeted APGD-DLR, targeted FAB, Square.

    Args:
        eps: radius of the ball, for images in [0, 1].
        norm: norm of the ball.
        batch_size: number of images in a forward pass.
        seed: seed of the ensemble's random numbers.

    Raises:
        ModuleNotFoundError: if pyautoattack is not installed.
        ValueError: if an argument is out of its range.
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
        check_eps(self.eps, self.norm)
        if self.eps == 0:
            raise ValueError("AutoAttack needs an eps above 0")

    def check_classes(self, num_classes: int) -> None:
        """Raise ValueError if there are too few classes for the targeted loss, which compares four logits."""
        if num_classes < 4:
            raise ValueError(f"AutoAttack needs at least four classes, got {num_classes}")

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked images.

        Shapes: x (B, C, H, W) in [0, 1], y (B,) -> (B, C, H, W).
        """
        from pyautoattack import AutoAttack as Ensemble

        with torch.inference_mode(False), torch.enable_grad(), seeded(self.seed, x.device):
            # The package takes views of images and gradients, which channels_last does not have.
            network = to_memory_format(copy.deepcopy(network).eval(), torch.contiguous_format)
            x, y = detached(x).contiguous(), detached(y)
            num_classes = network(x[:1]).shape[1]
            norm = NORMS[self.norm]
            ensemble = Ensemble(network, norm=norm, eps=self.eps, seed=self.seed, version="standard", device=x.device)
            num_targets = min(9, num_classes - 1)
            ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = num_targets
            adv, _ = ensemble.run_standard_evaluation(x, y, batch_size=self.batch_size)
        return adv.detach()
