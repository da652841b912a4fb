"""Progress of long work."""

from __future__ import annotations

import logging
import time

import pytest

from datasets.progress import seconds_left, track


def test_the_time_left_follows_the_mean_speed():
    assert seconds_left(time.monotonic() - 10, done=5, total=20) == pytest.approx(30, rel=0.01)


def test_track_yields_all_items_and_logs_how_many_are_done(caplog):
    with caplog.at_level(logging.INFO):
        assert list(track([1, 2, 3], "counted", every_seconds=0)) == [1, 2, 3]
    assert [record.message.split(",")[0] for record in caplog.records] == ["counted 1/3", "counted 2/3"]
    assert all(record.underway for record in caplog.records)  # by which a sweep prints them too


def test_track_takes_an_iterator_whose_number_of_items_is_told(caplog):
    with caplog.at_level(logging.INFO):
        assert list(track(iter("ab"), "read", every_seconds=0, total=2)) == ["a", "b"]
    assert [record.message.split(",")[0] for record in caplog.records] == ["read 1/2"]
