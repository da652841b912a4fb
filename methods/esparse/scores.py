"""How much a weight matters: the score of each published method, for W (R, C) and statistics of its C inputs."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from methods.esparse.entropy import RANGES, Range
from methods.esparse.statistics import InputStatistics, Needs

PUBLISHED_LENGTH = 2048  # tokens of a calibration sequence, by which Wanda's published norms are scaled
NORM_SCALES = ("wanda2048", "rms", "sum")


class Magnitude:
    """|w|."""

    needs = Needs()

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> Tensor:
        return weight.abs().float()


class Wanda:
    """|w_ij| ||x_j||_2 (Sun et al. 2023), the squared norm divided by the number of sequences, as in their code."""

    needs = Needs(frozenset({"norm"}))

    def __call__(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        return weight.abs().float() * (inputs.sum_squares / inputs.sequences).sqrt()


class RIA:
    """Relative importance and activations (Zhang et al. 2024): |w| over its row's sum plus |w| over its column's sum,
    times Wanda's norm to the power `power`; 0 leaves the activations out."""

    def __init__(self, power: float = 0.5) -> None:
        self.power = power
        self.needs = Needs(frozenset({"norm"})) if power else Needs()

    def __call__(self, weight: Tensor, inputs: InputStatistics | None) -> Tensor:
        size = weight.abs().float()
        tiny = torch.finfo(torch.float32).tiny  # a dead row or column has score 0
        relative = size / size.sum(0).clamp(min=tiny) + size / size.sum(1, keepdim=True).clamp(min=tiny)
        return relative * (inputs.sum_squares / inputs.sequences).sqrt() ** self.power if self.power else relative


class ESparse:
    """|w_ij| (entropy_weight H_j + alpha ||x_j||) (Li et al. 2023): entropy of the channel's histogram plus its norm.

    Args:
        alpha: weight of the norm; 0 leaves it out. entropy_weight: 0 leaves the entropy out.
        bins, range: of the histogram: per `channel`, over the `layer`, or between `quantile`s.
        base: of the logarithm, `e` or a number.
        norm_scale: `wanda2048`, sqrt(2048 mean(x^2)), the scale of Wanda's code at its published sequence length;
            `rms`, sqrt(mean(x^2)); `sum`, sqrt(sum(x^2)).
        combine: `add`, the paper's, or `multiply` (entropy times norm, for study).
    """

    def __init__(
        self,
        alpha: float = 1.0,
        entropy_weight: float = 1.0,
        bins: int = 100,
        range: Range = "channel",
        base: float | str = "e",
        norm_scale: str = "wanda2048",
        combine: Literal["add", "multiply"] = "add",
    ) -> None:
        if range not in RANGES:
            raise ValueError(f"method.score.range must be one of {', '.join(RANGES)}, got {range}")
        if norm_scale not in NORM_SCALES:
            raise ValueError(f"method.score.norm_scale must be one of {', '.join(NORM_SCALES)}, got {norm_scale}")
        if combine not in ("add", "multiply"):
            raise ValueError(f"method.score.combine must be add or multiply, got {combine}")
        if bins < 2:
            raise ValueError(f"method.score.bins must be at least 2, got {bins}")
        self.alpha, self.entropy_weight = alpha, entropy_weight
        if base != "e" and not (isinstance(base, int | float) and 1 < base < math.inf):
            raise ValueError(f"method.score.base must be e or a number above 1, got {base}")
        self.unit = 1.0 if base == "e" else math.log(base)
        self.norm_scale, self.combine = norm_scale, combine
        self.needs = Needs(frozenset({"norm", "entropy"} if entropy_weight else {"norm"}), bins, range)

    def importance(self, inputs: InputStatistics) -> Tensor:
        """(C,) of each channel."""
        tokens = {"wanda2048": PUBLISHED_LENGTH, "rms": 1, "sum": inputs.tokens}[self.norm_scale]
        norm = (tokens * inputs.mean_square).sqrt()
        if not self.entropy_weight:
            return self.alpha * norm
        entropy = inputs.entropy / self.unit
        return entropy * norm if self.combine == "multiply" else self.entropy_weight * entropy + self.alpha * norm

    def __call__(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        return weight.abs().float() * self.importance(inputs)
