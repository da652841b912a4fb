"""Thresholds of the verification rules."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom, norm

from methods.mira.null_models import check_all_learned
from methods.mira.triggers import TriggerSet
from methods.mira.verification import (
    Verdict,
    binomial_threshold,
    explain,
    null_threshold,
    rescaled_accuracy,
    tolerated_errors,
    verify,
)
from tests.methods.networks import small_network


@pytest.mark.parametrize(("count", "theta"), [(20, 6), (50, 19), (100, 42)])
def test_binomial_rule_gives_the_published_numbers(count, theta):
    assert tolerated_errors(count) == theta
    assert binom.cdf(theta - 1, count, 0.5) < 0.05 <= binom.cdf(theta, count, 0.5)


def test_binomial_threshold_is_the_smallest_accuracy_with_fewer_errors():
    assert binomial_threshold(100) == pytest.approx(0.59)  # 41 errors


def test_null_threshold_is_a_normal_quantile():
    accuracies = [0.1, 0.12, 0.08, 0.14]
    mean, std = 0.11, math.sqrt(sum((a - 0.11) ** 2 for a in accuracies) / 3)
    assert null_threshold(accuracies, 100) == pytest.approx(math.ceil(100 * norm.ppf(0.95, mean, std)) / 100)


def test_null_threshold_needs_two_models_that_do_not_know_all_triggers():
    assert math.isnan(null_threshold([0.1], 100))
    assert null_threshold([0.0, 0.0], 100) == pytest.approx(0.01)
    assert null_threshold([0.98, 0.98], 100) == pytest.approx(0.99)
    assert math.isnan(null_threshold([1.0, 1.0], 100))


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_than_five_triggers_prove_nothing(count):
    assert math.isnan(binomial_threshold(count))
    assert binomial_threshold(5) == 1
    assert set(Verdict(1.0, binomial_threshold(count), math.nan).metrics()) == {"trigger_acc"}


def test_rescaled_accuracy_puts_the_threshold_at_one_half():
    assert rescaled_accuracy(0.37, 0.37) == pytest.approx(0.5)
    assert rescaled_accuracy(1.0, 0.37) == pytest.approx(1.0)
    assert rescaled_accuracy(0.0, 0.9) == 0


def test_clean_models_that_have_not_learned_are_refused():
    check_all_learned([0.98, 0.89])
    with pytest.raises(ValueError, match=r"the best has 0\.985\): 1: 0\.230, 3: 0\.100\."):
        check_all_learned([0.985, 0.23, 0.98, 0.1])


def test_verdict_counts_only_the_counted_triggers():
    network = small_network()
    x = torch.rand(10, 1, 8, 8)
    y = network(x).argmax(1)
    y[5:] = (y[5:] + 1) % 4
    triggers = TriggerSet(x, y, torch.arange(10) < 5)
    verdict = verify(network, triggers)
    assert verdict.trigger_acc == 1
    assert "verified_null" not in verdict.metrics()
    assert verify(network, triggers._replace(counted=~triggers.counted)).trigger_acc == 0


def test_verdict_in_words_names_what_each_rule_needs():
    network = small_network()
    x = torch.rand(100, 1, 8, 8)
    triggers = TriggerSet.of(x, network(x).argmax(1))
    alone = explain(verify(network, triggers), triggers, 0)
    assert alone.startswith(f"100 of 100 triggers (sha256 {triggers.digest()[:16]}) get their label")
    assert "binomial rule: verified, at least 59 are needed" in alone
    assert "no verdict without at least two clean models" in alone
    words = explain(Verdict(0.5, 0.59, 0.61), triggers, 5)
    assert "binomial rule: not verified" in words
    assert "null-model rule: not verified, at least 61 are needed by a normal distribution fitted to 5" in words
