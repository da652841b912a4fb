"""Pruning metrics: the score of each weight by magnitude, Wanda, RIA and E-Sparse.

A score is called with a weight (R, C) and the statistics of its C inputs, and returns (R, C) float32. Its attribute
`required` names the statistics.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from datasets.checks import check_choice, check_not_negative
from methods.esparse.entropy import HISTOGRAM_RANGES, HistogramRange
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics

PUBLISHED_LENGTH = 2048  # tokens of a calibration sequence in the papers; sets the scale of Wanda's published norms
NORM_SCALES = ("wanda2048", "rms", "sum")
COMBINATIONS = ("add", "multiply")


class Score(Protocol):
    """Score of each weight of a matrix."""

    @property
    def required(self) -> RequiredStatistics:
        """Statistics of the inputs that the score needs."""
        ...

    def __call__(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        """Return the scores (R, C) of a weight (R, C)."""
        ...


class Magnitude:
    """Score |w_ij|."""

    required = RequiredStatistics()

    def __call__(self, weight: Tensor, inputs: InputStatistics | None = None) -> Tensor:
        """Return the scores (R, C) of a weight (R, C)."""
        return weight.abs().float()


class Wanda:
    """Score |w_ij| ||x_j||_2 (Sun et al. 2023).

    As in the published code, the squared norm is divided by the number of sequences.
    """

    required = RequiredStatistics(frozenset({"norm"}))

    def __call__(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        """Return the scores (R, C) of a weight (R, C)."""
        return weight.abs().float() * inputs.norm


class RIA:
    """Relative importance and activations (Zhang et al. 2024).

    The score is |w_ij| / (sum of its row) + |w_ij| / (sum of its column), times Wanda's norm to the power a.

    Args:
        activation_power: exponent a of the norm; 0 leaves the activations out (relative importance).
    """

    def __init__(self, activation_power: float = 0.5) -> None:
        self.activation_power = activation_power
        self.required = RequiredStatistics(frozenset({"norm"})) if activation_power else RequiredStatistics()

    def __call__(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        """Return the scores (R, C) of a weight (R, C). A row or column of zeros has score 0."""
        size = weight.abs().float()
        tiny = torch.finfo(torch.float32).tiny
        relative = size / size.sum(0).clamp(min=tiny) + size / size.sum(1, keepdim=True).clamp(min=tiny)
        if not self.activation_power:
            return relative
        return relative * inputs.norm**self.activation_power


class ESparse:
    """E-Sparse's metric |w_ij| (H_j + alpha ||x_j||) (Li et al. 2023): entropy of the channel's histogram plus norm.

    The paper's text was not available. The form is that of its overview figure; bins, range, base, alpha and the scale
    of the norm follow secondary sources and Wanda's code.

    Args:
        alpha: weight of the norm; 0 leaves it out.
        entropy_weight: weight of the entropy; 0 leaves it out.
        bins: number of bins of the histogram.
        histogram_range: "channel", "layer" or "quantile", see `methods.esparse.entropy.histogram_bounds`.
        log_base: base of the entropy's logarithm, "e" or a number above 1.
        norm_scale: "wanda2048": sqrt(2048 mean(x^2)), the scale of Wanda's code at its sequence length of 2048;
            "rms": sqrt(mean(x^2)); "sum": sqrt(sum(x^2)).
        combine: "add" (paper) or "multiply" (entropy times norm, for study).

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        entropy_weight: float = 1.0,
        bins: int = 100,
        histogram_range: HistogramRange = "channel",
        log_base: float | str = "e",
        norm_scale: str = "wanda2048",
        combine: str = "add",
    ) -> None:
        check_choice("method.score.histogram_range", histogram_range, HISTOGRAM_RANGES)
        check_choice("method.score.norm_scale", norm_scale, NORM_SCALES)
        check_choice("method.score.combine", combine, COMBINATIONS)
        if bins < 2:
            raise ValueError(f"method.score.bins must be at least 2, got {bins}")
        check_not_negative("method.score", alpha=alpha, entropy_weight=entropy_weight)
        if not (alpha or entropy_weight):
            raise ValueError("method.score.alpha and method.score.entropy_weight are both 0: every score would be 0")
        self.alpha, self.entropy_weight = alpha, entropy_weight
        self.nats_per_unit = nats_per_unit(log_base)
        self.norm_scale, self.combine = norm_scale, combine
        kinds = frozenset({"norm", "entropy"} if entropy_weight else {"norm"})
        self.required = RequiredStatistics(kinds, bins, histogram_range)

    def channel_importance(self, inputs: InputStatistics) -> Tensor:
        """Return the importance (C,) of each channel."""
        tokens = {"wanda2048": PUBLISHED_LENGTH, "rms": 1, "sum": inputs.tokens}[self.norm_scale]
        norm = (tokens * inputs.mean_square).sqrt()
        if not self.entropy_weight:
            return self.alpha * norm
        entropy = inputs.entropy / self.nats_per_unit
        return entropy * norm if self.combine == "multiply" else self.entropy_weight * entropy + self.alpha * norm

    def __call__(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        """Return the scores (R, C) of a weight (R, C)."""
        return weight.abs().float() * self.channel_importance(inputs)


def nats_per_unit(log_base: float | str) -> float:
    """Return how many nats a unit of entropy to the base has. Raise ValueError for a base that is not above 1."""
    if log_base == "e":
        return 1.0
    if not (isinstance(log_base, int | float) and 1 < log_base < math.inf):
        raise ValueError(f"method.score.log_base must be e or a number above 1, got {log_base}")
    return math.log(log_base)
