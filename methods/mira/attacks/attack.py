"""Interface of attacks that remove a watermark."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.mira.attack_data import AttackData
from methods.mira.fine_tuning_loop import Observer


class RemovalAttack:
    """Base class of attacks. An attack is one file with one subclass, one config and one test.

    Attributes:
        settings: settings of the data in which the attack works.
        uses_recovered: whether the attack needs recovered samples.
        metrics: numbers about the attack, by name; filled by the call.
        tensors: tensors for figures, by name; filled by the call.
        splitting: quantile of salient units and share of proxies, by which the figure of recovered samples splits them.
    """

    settings: tuple[str, ...] = ("in_distribution", "transfer")
    uses_recovered = False
    splitting = (0.95, 0.5)

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.tensors: dict[str, Tensor] = {}

    def check(self, setting: str, target: int | None, marked: bool) -> None:
        """Raise ValueError if the attack cannot work, before anything runs.

        Args:
            setting: setting of the attacker's data.
            target: class of all triggers of the marked model, None if there is no such class.
            marked: whether the scheme of the model is known here (it is not for a user's own model).
        """
        if setting not in self.settings:
            raise ValueError(
                f"{type(self).__name__} works with method.setting={' or '.join(self.settings)}, not with {setting}"
            )

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the model without its watermark.

        Args:
            network: copy of the marked model, which may be changed.
            data: what the attacker has, on the network's device.
            observe: to be called after every epoch of training with the present model.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a classifier's last layer."""
    head = network.head
    assert isinstance(head, nn.Linear)
    return list(head.parameters())


def prunable_layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return the convolutions and linear layers; batch norm is never pruned."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@torch.no_grad()
def reset_head(network: nn.Module) -> None:
    """Draw new initial weights of the last layer from torch's generator."""
    head = network.head
    assert isinstance(head, nn.Linear)
    head.reset_parameters()
