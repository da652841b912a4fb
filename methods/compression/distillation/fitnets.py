"""FitNets (Romero et al. 2015, arXiv 1412.6550): a student's map regressed onto a teacher's."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from datasets.checks import check_choice, check_count, check_not_negative
from methods.compression.distillation.features import FeatureTap, features_of, last_maps
from methods.compression.distillation.kd import Distillation
from methods.compression.stage import Context
from methods.compression.training import Recipe

log = logging.getLogger(__name__)


def regressor(student: torch.Size, teacher: torch.Size) -> nn.Sequential:
    """Return a convolution with batch normalisation and ReLU that maps a student's map to the shape of a teacher's.

    Args:
        student: shape (B, C, H, W) of the student's map.
        teacher: shape of the teacher's map.
    """
    (_, c_s, h_s, _), (_, c_t, h_t, _) = student, teacher
    if h_s == 2 * h_t:
        conv: nn.Module = nn.Conv2d(c_s, c_t, 3, 2, 1)
    elif 2 * h_s == h_t:
        conv = nn.ConvTranspose2d(c_s, c_t, 4, 2, 1)
    elif h_s >= h_t:
        conv = nn.Conv2d(c_s, c_t, 1 + h_s - h_t)
    else:
        raise ValueError(f"a map of {h_s} pixels a side cannot be regressed onto one of {h_t}")
    return nn.Sequential(conv, nn.BatchNorm2d(c_t), nn.ReLU())


class FitNets(Distillation):
    """Distil one feature map by a regressor, in the middle of the network.

    Args:
        mode: joint (the hint beside the other losses), or two_stage (first the hint alone, then soft targets).
        hint_epochs: epochs of the first stage of two_stage.
        level: number of the resolution whose last map is used, from 0, the largest.
        **options: arguments of `Distillation`.
    """

    def __init__(self, mode: str = "joint", hint_epochs: int = 10, level: int = 1, **options: Any) -> None:
        super().__init__(**({"r": 1.0, "a": 0.0, "b": 100.0} | options))
        check_choice("mode", mode, ("joint", "two_stage"))
        if mode == "two_stage":
            if not self.a:
                raise ValueError("mode=two_stage trains on soft targets after the hint: a must be above 0")
            self.b = 0.0
        check_count("stage", hint_epochs=hint_epochs)
        check_not_negative("stage", level=level)
        self.mode, self.hint_epochs, self.level = mode, hint_epochs, level

    def prepare(self, student: nn.Module, teacher: nn.Module, context: Context) -> list[nn.Module]:
        """Make the regressor; with two_stage, train the hint first."""
        x = context.images(2)
        names = [last_maps(net, x[:1]) for net in (student, teacher)]
        level = min(self.level, *(len(n) - 1 for n in names))
        if level < self.level:
            log.warning("%s: level=%d is beyond the last resolution, %d is taken", context.label, self.level, level)
        own, other = names[0][level], names[1][level]
        shapes = [features_of(net, [n], x)[n].shape for net, n in ((student, own), (teacher, other))]
        self.regressor = regressor(*shapes).to(context.device)
        self.taps = FeatureTap(student, [own]), FeatureTap(teacher, [other])
        if self.mode == "two_stage":
            recipe = Recipe(
                self.hint_epochs, self.recipe.lr, schedule="constant", weight_decay=self.recipe.weight_decay
            )
            context.train(
                student,
                recipe,
                loss=lambda net, batch: self._hint(net, teacher, batch),
                more_modules=[self.regressor],
                label=f"{context.label}, hint",
            )
            return []
        return [self.regressor]

    def _hint(self, network: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        network(batch.x)
        with torch.no_grad():
            teacher(batch.x)
        return self.further_loss(batch)

    def further_loss(self, batch: Any) -> Tensor:
        """Return the mean squared error of the regressed map."""
        (own,), (other,) = (tap.ordered() for tap in self.taps)
        return mse_loss(self.regressor(own), other.detach())

    def finish(self) -> None:
        """Remove the hooks."""
        for tap in self.taps:
            tap.remove()
