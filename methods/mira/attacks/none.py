"""No attack: the marked model itself, the first row of every table."""

from __future__ import annotations

from torch import nn

from methods.mira.attack_data import SETTINGS, AttackData
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.fine_tuning_loop import Observer


class NoRemoval(RemovalAttack):
    """Leave the model as it is."""

    settings = SETTINGS

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the marked model."""
        return network
