"""Metrics of click-through-rate models, from logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def auc(logits: Tensor, labels: Tensor) -> float:
    """Compute the area under the ROC curve: P(logit of a positive > logit of a negative) + half of the ties.

    Args:
        logits: logits, (N,).
        labels: 0 or 1, (N,).

    Returns:
        Area, or NaN if all labels are equal.
    """
    positive = labels > 0.5
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = _mean_ranks(logits)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _mean_ranks(values: Tensor) -> Tensor:
    """Rank of each value from 1, equal values sharing the mean of their ranks, float64."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1).double() / 2)[inverse]


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Compute the mean cross-entropy in nats, in float64 and from logits, so that no probability is clipped.

    Args:
        logits: logits, (N,).
        labels: 0 or 1, (N,).
    """
    return float(binary_cross_entropy_with_logits(logits.double(), labels.double()))


def normalized_entropy(logits: Tensor, labels: Tensor) -> float:
    """Compute the log-loss divided by that of the constant click rate (He et al. 2014); below 1 is better than it.

    Args:
        logits: logits, (N,).
        labels: 0 or 1, (N,).
    """
    rate = labels.double().mean()
    entropy = -(torch.xlogy(rate, rate) + torch.xlogy(1 - rate, 1 - rate))
    return float(log_loss(logits, labels) / entropy)


def calibration_curve(logits: Tensor, labels: Tensor, bins: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Compare predicted and observed click rates in bins of equally many rows.

    Args:
        logits: logits, (N,).
        labels: 0 or 1, (N,).
        bins: number of bins.

    Returns:
        Mean prediction, click rate and share of rows of each bin, (bins,) float64 each; bins without rows are left out.
    """
    order = logits.argsort()
    rows = torch.stack([logits.double().sigmoid(), labels.double()])[:, order]
    parts = [part for part in torch.tensor_split(rows, bins, dim=1) if part.shape[1]]
    means = torch.stack([part.mean(1) for part in parts], dim=1)
    share = torch.tensor([part.shape[1] for part in parts], dtype=torch.float64, device=logits.device) / len(logits)
    return means[0], means[1], share


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Compute the mean absolute difference of predicted and observed click rates over bins of equally many rows.

    Args:
        logits: logits, (N,).
        labels: 0 or 1, (N,).
        bins: number of bins.
    """
    predicted, observed, share = calibration_curve(logits, labels, bins)
    return float(((predicted - observed).abs() * share).sum())


def group_auc(logits: Tensor, labels: Tensor, groups: Tensor) -> float:
    """Compute the mean AUC within groups (users, say), weighted by rows; groups of one label only are left out.

    Args:
        logits: logits, (N,).
        labels: 0 or 1, (N,).
        groups: number of the group of each row, (N,) integer.

    Returns:
        Mean AUC, or NaN if no group has both labels.
    """
    _, group = torch.unique(groups, return_inverse=True)
    order = torch.argsort(logits, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    group, logits, labels = group[order], logits[order], labels[order].double()
    rows = torch.bincount(group).double()
    first = rows.cumsum(0) - rows
    changed = torch.ones_like(group, dtype=torch.bool)
    changed[1:] = (group[1:] != group[:-1]) | (logits[1:] != logits[:-1])
    tie = changed.cumsum(0) - 1
    counts = torch.bincount(tie).double()
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[tie] - first[group]
    positives = torch.zeros_like(rows).index_add_(0, group, labels)
    rank_sums = torch.zeros_like(rows).index_add_(0, group, labels * ranks)
    both = (positives > 0) & (positives < rows)
    if not both.any():
        return float("nan")
    areas = (rank_sums - positives * (positives + 1) / 2) / (positives * (rows - positives)).clamp(min=1)
    return float((areas[both] * rows[both]).sum() / rows[both].sum())
