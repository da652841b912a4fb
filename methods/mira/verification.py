"""Verification of a watermark: trigger accuracy, and the thresholds that it is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.attacks import mode_of
from methods.mira.triggers import TriggerSet

LEVEL = 0.05  # significance of both rules
BASE = 0.5  # line of decision of the rescaled accuracy (Lukas et al. 2022)


class Verdict(NamedTuple):
    """Verdict on a suspect model.

    Args:
        trigger_acc: share of the triggers with their marked label.
        binomial_threshold: smallest trigger accuracy that the binomial rule accepts; NaN if it can accept none.
        null_threshold: smallest trigger accuracy that the null-model rule accepts; NaN without null models, or if it
            can accept none.
    """

    trigger_acc: float
    binomial_threshold: float
    null_threshold: float

    @property
    def verified_binomial(self) -> bool:
        """Return whether the binomial rule finds the watermark."""
        return self.trigger_acc >= self.binomial_threshold - 1e-9

    @property
    def verified_null(self) -> bool:
        """Return whether the null-model rule finds the watermark; False without its threshold."""
        return self.trigger_acc >= self.null_threshold - 1e-9

    def metrics(self) -> dict[str, float]:
        """Return the verdict as metrics; those of a rule without a threshold are left out."""
        values = {"trigger_acc": self.trigger_acc}
        if not math.isnan(self.binomial_threshold):
            values |= {
                "binomial_threshold": self.binomial_threshold,
                "verified_binomial": float(self.verified_binomial),
            }
        if not math.isnan(self.null_threshold):
            values |= {
                "null_threshold": self.null_threshold,
                "verified_null": float(self.verified_null),
                "rescaled_acc": rescaled_accuracy(self.trigger_acc, self.null_threshold),
            }
        return values


def tolerated_errors(count: int, level: float = LEVEL) -> int:
    """Return theta of the binomial rule: the watermark is verified with fewer than theta errors.

    theta is the smallest number with 2^-N sum_{z <= theta} binomial(N, z) >= level, as the loop of the authors of
    adversarial frontier stitching computes it: 42 for 100 triggers. The code of the MIRA authors returns one more. The
    rule supposes that a clean model gives half of the triggers their marked label, which is lenient for ten classes.

    Args:
        count: number of triggers, N.
        level: significance.
    """
    tail = 0
    for errors in range(count + 1):
        tail += math.comb(count, errors)
        if tail >= level * 2**count:
            return errors
    return count


def binomial_threshold(count: int, level: float = LEVEL) -> float:
    """Return the smallest trigger accuracy that verifies `count` triggers by the binomial rule.

    NaN if not even all of them verify: fewer than five triggers at the level of 0.05.
    """
    needed = count - tolerated_errors(count, level) + 1
    return needed / count if needed <= count else math.nan


def null_threshold(accuracies: Sequence[float], count: int, level: float = LEVEL) -> float:
    """Return the smallest trigger accuracy that verifies by the null-model rule (Lukas et al. 2022).

    A normal distribution is fitted to the trigger accuracies of independently trained clean models. The threshold is
    its smallest share k / count whose distribution function reaches 1 - level.

    Args:
        accuracies: trigger accuracy of each clean model.
        count: number of triggers.
        level: significance.

    Returns:
        Threshold in [1 / count, 1]; NaN if there are fewer than two models, or if clean models give so many triggers
        their label that not even all of them would verify.
    """
    if len(accuracies) < 2:
        return math.nan
    values = torch.tensor(accuracies, dtype=torch.float64)
    spread = max(float(values.std()), 1e-6)
    quantile = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - level, dtype=torch.float64)))
    needed = math.ceil(count * (float(values.mean()) + quantile * spread) - 1e-9)
    return max(needed, 1) / count if needed <= count else math.nan


def rescaled_accuracy(trigger_acc: float, threshold: float) -> float:
    """Return the trigger accuracy rescaled so that 0.5 is the line of decision (Lukas et al. 2022).

    max(0, (1 - b) / (1 - theta) a + (b - theta) / (1 - theta)) with b = 0.5 and theta rounded up to two decimals.

    Args:
        trigger_acc: trigger accuracy, a.
        threshold: smallest accuracy that verifies, theta.
    """
    theta = math.ceil(threshold * 100 - 1e-9) / 100
    if theta >= 1:
        return float(trigger_acc >= 1)
    return max(0.0, (1 - BASE) / (1 - theta) * trigger_acc + (BASE - theta) / (1 - theta))


@torch.no_grad()
def predict(network: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Return the predicted classes, with the network in eval mode.

    Shapes: x (N, C, H, W) -> (N,).
    """
    with mode_of(network, False):
        return torch.cat([network(part).argmax(1) for part in x.split(batch_size)])


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of images with their label.

    Shapes: x (N, C, H, W), y (N,).
    """
    return float((predict(network, x) == y).float().mean())


def trigger_accuracy(network: nn.Module, triggers: TriggerSet) -> float:
    """Return the share of the counted triggers that get their marked label."""
    return accuracy(network, triggers.x[triggers.counted], triggers.y[triggers.counted])


def verify(network: nn.Module, triggers: TriggerSet, nulls: Sequence[nn.Module] = ()) -> Verdict:
    """Return the verdict on a network by both rules.

    Args:
        network: suspect network, on the triggers' device.
        triggers: triggers of the owner.
        nulls: clean networks of the null-model rule.
    """
    count = int(triggers.counted.sum())
    nulls_acc = [trigger_accuracy(null, triggers) for null in nulls]
    return Verdict(trigger_accuracy(network, triggers), binomial_threshold(count), null_threshold(nulls_acc, count))


def explain(verdict: Verdict, triggers: TriggerSet, null_models: int) -> str:
    """Return a verdict in words: what each rule says and what it rests on.

    Args:
        verdict: verdict on a model.
        triggers: triggers that it was checked with.
        null_models: number of clean models of the null-model rule.
    """
    count = int(triggers.counted.sum())
    hits = f"{round(verdict.trigger_acc * count)} of {count} triggers (sha256 {triggers.digest()[:16]}) get their label"
    words = {True: "verified", False: "not verified"}
    binomial = "binomial rule: no verdict on so few triggers"
    if not math.isnan(verdict.binomial_threshold):
        binomial = (
            f"binomial rule: {words[verdict.verified_binomial]}, at least {round(verdict.binomial_threshold * count)} "
            "are needed if a clean model gives half of them their label"
        )
    null = "null-model rule: no verdict without at least two clean models"
    if null_models > 1:
        null = "null-model rule: no verdict, since clean models give nearly all triggers their label too"
    if not math.isnan(verdict.null_threshold):
        null = (
            f"null-model rule: {words[verdict.verified_null]}, at least {round(verdict.null_threshold * count)} are "
            f"needed by a normal distribution fitted to {null_models} clean models"
        )
    return f"{hits}; {binomial}; {null}"
