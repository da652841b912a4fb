"""Checks of arguments."""

from __future__ import annotations

import math

import pytest

from datasets.checks import check_choice, check_positive


def test_positive_numbers_and_none_pass():
    check_positive("dataset", batch_size=1, holdout=None, lr=1e-9)


@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan])
def test_other_numbers_are_named(value):
    with pytest.raises(ValueError, match=r"dataset\.batch_size must be positive"):
        check_positive("dataset", batch_size=value)


def test_an_unknown_choice_lists_the_known_ones():
    check_choice("method.route", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"method\.route=c is unknown; choose from a, b"):
        check_choice("method.route", "c", ("a", "b"))
