"""Interface of watermark schemes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_positive
from methods.mira.triggers import TriggerSet, TriggerSource


class Step(NamedTuple):
    """Batches of one step of embedding.

    Shapes:
        x: clean images (B, C, H, W).
        y: their labels (B,).
        trigger_x: trigger images (T, C, H, W).
        trigger_y: their labels (T,).
        number: number of the step, from 0.
    """

    x: Tensor
    y: Tensor
    trigger_x: Tensor
    trigger_y: Tensor
    number: int


class Scheme(nn.Module):
    """Base class of schemes. A scheme is one file with one subclass, one config and one test.

    A scheme is a module so that parts of it that are trained lie in the run's checkpoint.

    Attributes:
        target: class of all triggers (fixed-class schemes), or None.
        needs_clean: whether triggers are made with a trained clean network.
        starts_clean: whether the marked network starts from the clean one.

    Args:
        count: number of triggers.
    """

    target: int | None = None
    needs_clean = False
    starts_clean = False

    def __init__(self, count: int = 100) -> None:
        super().__init__()
        check_positive("method.scheme", count=count)
        self.count = count

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return the triggers, which depend on the source and its seed alone."""
        raise NotImplementedError(f"{type(self).__name__} does not define make_triggers")

    def loss(self, network: nn.Module, step: Step) -> Tensor:
        """Return the loss of a step: by default one cross-entropy over clean images and triggers together."""
        logits = network(torch.cat([step.x, step.trigger_x]))
        return cross_entropy(logits, torch.cat([step.y, step.trigger_y]))
