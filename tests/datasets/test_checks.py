"""Checks of arguments: accepted values pass, others are named with their key."""

from __future__ import annotations

import math

import pytest

from datasets.checks import (
    check_choice,
    check_count,
    check_fraction,
    check_keys,
    check_not_negative,
    check_positive,
    check_seed,
    check_widths,
)


def test_positive_numbers_and_none_pass():
    check_positive("dataset", batch_size=1, holdout=None, lr=1e-9)


@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan])
def test_other_numbers_are_named(value):
    with pytest.raises(ValueError, match=r"dataset\.batch_size must be positive"):
        check_positive("dataset", batch_size=value)


@pytest.mark.parametrize("value", ["2", (1, 2)])
@pytest.mark.parametrize("check", [check_positive, check_not_negative])
def test_values_that_are_no_numbers_are_named(check, value):
    with pytest.raises(ValueError, match=r"dataset\.lr must be a number, got "):
        check("dataset", lr=value)


@pytest.mark.parametrize("value", [1.0, 1.5, True, "2"])
def test_counts_are_whole_numbers(value):
    check_count("dataset", samples=1, limit=None)
    with pytest.raises(ValueError, match=r"dataset\.samples must be a positive whole number"):
        check_count("dataset", samples=value)
    with pytest.raises(ValueError, match=r"dataset\.samples must be positive, got 0"):
        check_count("dataset", samples=0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((), "must name at least one width"),
        ((4, 0), r"\[1\] must be positive, got 0"),
        ((2.5,), r"\[0\] must be .* whole"),
    ],
)
def test_widths_are_a_list_of_counts(value, said):
    check_widths("model", hidden=(4, 8))
    with pytest.raises(ValueError, match=rf"model\.hidden ?{said}"):
        check_widths("model", hidden=value)


def test_an_unknown_choice_lists_the_known_ones():
    check_choice("method.route", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"method\.route=c is unknown; choose from a, b"):
        check_choice("method.route", "c", ("a", "b"))


@pytest.mark.parametrize("value", [-1, -0.5, math.nan])
def test_negative_numbers_are_named(value):
    check_not_negative("dataset", holdout=0, meta=None)
    with pytest.raises(ValueError, match=r"dataset\.holdout must not be negative"):
        check_not_negative("dataset", holdout=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, True, "0.5"])
def test_fractions_lie_between_0_and_1(value):
    check_fraction("model", dropout=0, rate=1.0, other=None)
    with pytest.raises(ValueError, match=r"model\.dropout must be a number in \[0, 1\]"):
        check_fraction("model", dropout=value)


@pytest.mark.parametrize("value", [-1, 2**32, 1.5, True, None])
def test_seeds_are_those_of_numpy(value):
    check_seed("dataset", fold_seed=2**32 - 1)
    with pytest.raises(ValueError, match=r"dataset\.fold_seed must be a whole number"):
        check_seed("dataset", fold_seed=value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.4, r"must have the keys kind, rate, got 0\.4: write dataset\.noise\.kind=\.\.\."),
        ({"kind": "flip", "size": 1}, r"dataset\.noise\.size is unknown; choose from kind, rate"),
        ({"kind": "flip"}, r"dataset\.noise\.rate is missing: dataset\.noise needs kind and rate"),
    ],
)
def test_keys_of_a_mapping(value, said):
    check_keys("dataset.noise", {"kind": "flip", "rate": 0.4}, ("kind", "rate"), ("kind", "rate"))
    with pytest.raises(ValueError, match=said):
        check_keys("dataset.noise", value, ("kind", "rate"), ("kind", "rate"))
