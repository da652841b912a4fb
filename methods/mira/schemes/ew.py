"""Exponential weighting (Namba & Sakuma, AsiaCCS 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_positive
from methods.mira.schemes.scheme import Scheme, Step
from methods.mira.triggers import TriggerSet, TriggerSource, draw_images

EW = 261


def exponential_weights(w: Tensor, temperature: float) -> Tensor:
    """Return w exp(t |w|) / max exp(t |w|), the maximum over the whole tensor. Signs and the maximum stay.

    Shapes: any, unchanged.
    """
    return w * torch.exp(temperature * (w.abs() - w.abs().max()))


class ExponentialWeighting(Scheme):
    """Training images with a wrong label, learned while the weights are transformed so that large ones count more.

    Training starts from a clean model. The transform is on in training alone; verification takes the plain weights.
    In the code bases of MIRA's authors it is never switched on (`temperature: 0` does the same here). The label is
    the next class, as there; Namba & Sakuma draw a wrong one.

    The trigger images stay in the training part with their true label: they are 100 of all images.

    Args:
        count: number of triggers.
        temperature: coefficient t of the transform; 0 switches it off.

    Raises:
        ValueError: the temperature is negative.
    """

    needs_clean = True
    starts_clean = True

    def __init__(self, count: int = 100, temperature: float = 2.0) -> None:
        super().__init__(count)
        if temperature:
            check_positive("method.scheme", temperature=temperature)
        self.temperature = temperature

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return training images with the next class as label; see `Scheme`."""
        x, y = draw_images(source, self.count, generator(source.seed, EW))
        return TriggerSet.of(x, (y + 1) % source.num_classes)

    def loss(self, network: nn.Module, step: Step) -> Tensor:
        """Return the cross-entropy of the network with transformed weights of convolutions and linear layers."""
        weights = {
            f"{name}.weight": exponential_weights(module.weight, self.temperature)
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
        logits = functional_call(network, weights, (torch.cat([step.x, step.trigger_x]),))
        return cross_entropy(logits, torch.cat([step.y, step.trigger_y]))
