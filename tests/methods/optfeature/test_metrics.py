"""Metrics against brute force and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from methods.optfeature import metrics


@pytest.fixture
def rows():
    torch.manual_seed(0)
    logits = (torch.randn(400) * 2).round() / 2  # with many ties
    return logits, (torch.rand(400) < logits.sigmoid()).float()


def test_auc_counts_pairs(rows):
    logits, labels = rows
    positive, negative = logits[labels == 1], logits[labels == 0]
    difference = positive[:, None] - negative[None]
    expected = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean()
    assert metrics.auc(logits, labels) == pytest.approx(float(expected), abs=1e-12)
    assert metrics.auc(logits, labels) == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)


def test_auc_needs_both_labels():
    assert math.isnan(metrics.auc(torch.randn(4), torch.ones(4)))


def test_log_loss_of_saturated_logits_is_not_clipped():
    assert metrics.log_loss(torch.tensor([60.0]), torch.tensor([0.0])) == pytest.approx(60)
    assert metrics.log_loss(torch.tensor([-800.0]), torch.tensor([1.0])) == pytest.approx(800)


def test_log_loss_and_normalized_entropy(rows):
    logits, labels = rows
    assert metrics.log_loss(logits, labels) == pytest.approx(sklearn_log_loss(labels, logits.double().sigmoid()))
    rate = labels.double().mean().logit().expand(len(labels))
    assert metrics.normalized_entropy(rate, labels) == pytest.approx(1)


def test_calibration_error_of_true_probabilities_is_small():
    torch.manual_seed(1)
    logits = torch.randn(200_000)
    labels = (torch.rand(200_000) < logits.sigmoid()).float()
    assert metrics.expected_calibration_error(logits, labels) < 0.01
    assert metrics.expected_calibration_error(logits + 1, labels) > 0.15
    predicted, observed, share = metrics.calibration_curve(logits, labels, bins=4)
    assert share.tolist() == [0.25] * 4
    assert float((predicted - observed).abs().max()) < 0.01


def test_group_auc_is_the_weighted_mean_of_groups(rows):
    logits, labels = rows
    groups = torch.arange(400) % 7
    labels[groups == 3] = 1  # left out: one label only
    areas, weights = [], []
    for group in range(7):
        if group != 3:
            inside = groups == group
            areas.append(roc_auc_score(labels[inside], logits[inside]))
            weights.append(int(inside.sum()))
    expected = sum(a * w for a, w in zip(areas, weights, strict=True)) / sum(weights)
    assert metrics.group_auc(logits, labels, groups) == pytest.approx(expected, abs=1e-12)
