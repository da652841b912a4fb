"""Masks of pruned weights: how many weights go, and which."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from datasets.checks import check_choice

SCHEDULES = ("oneshot", "linear", "exponential", "agp")


def sparsity_after(schedule: str, final: float, round_number: int, rounds: int) -> float:
    """Return the share of pruned weights after a round.

    Args:
        schedule: oneshot (all in the first round); linear; exponential (the kept share falls by the same factor in each
            round, keep = final_keep^(r / R)); agp (cubic, Zhu and Gupta 2017).
        final: share of pruned weights after the last round.
        round_number: number of the round, from 1.
        rounds: number of rounds.
    """
    check_choice("schedule", schedule, SCHEDULES)
    progress = round_number / rounds
    if schedule == "oneshot":
        return final
    if schedule == "linear":
        return final * progress
    if schedule == "exponential":
        return 1 - (1 - final) ** progress
    return final - final * (1 - progress) ** 3


def smallest(scores: Tensor, count: int) -> Tensor:
    """Return a mask that is False at exactly `count` places, those of the smallest scores.

    The published rule `|w| > sorted[count]` prunes one weight more, and all ties.

    Args:
        scores: tensor of any shape.
        count: number of places.
    """
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[torch.topk(scores.flatten(), count, largest=False, sorted=False).indices] = False
    return mask.reshape(scores.shape)


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return masks that prune the smallest scores of all layers together: int(sparsity x number) places.

    Args:
        scores: scores of each weight by layer.
        sparsity: share of pruned weights.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    mask = smallest(flat, int(sparsity * flat.numel()))
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def layer_masks(scores: Mapping[str, Tensor], sparsity: float | Mapping[str, float]) -> dict[str, Tensor]:
    """Return masks that prune the smallest scores of each layer: int(sparsity x number) places.

    Args:
        scores: scores of each weight by layer.
        sparsity: share of pruned weights of all layers, or by layer.
    """
    share = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(scores, sparsity)
    return {name: smallest(score, int(share[name] * score.numel())) for name, score in scores.items()}


def lottery_density(levels: int, fraction: float, numel: int) -> float:
    """Return the share of weights that are left after some levels, each of which prunes ceil(fraction x left)."""
    left = numel
    for _ in range(levels):
        left -= math.ceil(fraction * left)
    return left / numel
