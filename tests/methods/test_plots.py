"""Plots that methods share."""

from __future__ import annotations

import matplotlib

from methods.plots import plot_epoch_curves

matplotlib.use("Agg")


def test_epochs_count_from_one_and_gaps_stay_out():
    figure = plot_epoch_curves([{"a": 1.0}, {"b": 5.0}, {"a": 3.0, "b": 6.0}], {"a": "A", "b": "B"}, ylabel="value")
    lines = figure.axes[0].get_lines()
    assert lines[0].get_xydata().tolist() == [[1, 1], [3, 3]]
    assert lines[1].get_xydata().tolist() == [[2, 5], [3, 6]]


def test_a_metric_that_is_missing_draws_nothing():
    assert plot_epoch_curves([{"a": 1.0}], {"a": "A", "b": "B"}, ylabel="value") is None
