"""A trained classifier of bright quadrants, for tests of inversion, schemes and attacks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods.mira.attack_data import AttackData
from methods.mira.triggers import TriggerSource
from tests.methods.networks import small_network


def quadrants(n: int = 160, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 8, 8) whose quadrant y (n,) is bright."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    x = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    for label in range(4):
        rows, columns = slice(4 * (label // 2), 4 * (label // 2) + 4), slice(4 * (label % 2), 4 * (label % 2) + 4)
        x[y == label, :, rows, columns] += 0.6
    return x, y


@lru_cache
def _trained_state() -> dict[str, torch.Tensor]:
    network = small_network().train()
    x, y = quadrants()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.state_dict()


def trained_network() -> nn.Module:
    """A new copy of a network that knows the quadrants, in eval mode."""
    network = small_network()
    network.load_state_dict(_trained_state())
    return network.eval()


def attack_data(**kwargs) -> AttackData:
    """The attacker's data of a trained network."""
    x, y = quadrants(seed=1)
    return AttackData(num_classes=4, seed=0, x=x, y=y, **kwargs)


def trigger_source(clean: nn.Module | None = None, **kwargs) -> TriggerSource:
    """Material of triggers: quadrants, four classes."""
    x, y = quadrants(400)
    ones = torch.ones(1, 1, 1)
    values = {"num_classes": 4, "mean": 0.4 * ones, "std": 0.3 * ones, "root": Path("data"), "seed": 0}
    return TriggerSource((x * 255).byte(), y, clean=clean, **values | kwargs)
