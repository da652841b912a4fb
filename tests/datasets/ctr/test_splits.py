"""Splits against pandas' rule, scikit-learn's folds and the published sizes."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.ctr.splits import TEST, TRAIN, VAL, autoint_split, last_periods_split, random_split, temporal_split


def test_random_split_is_that_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"row": np.arange(1237)})
    train = frame.sample(frac=0.8, random_state=2021)
    rest = frame[~frame.index.isin(train.index)]
    test = rest.sample(frac=0.5, random_state=2021)
    parts = random_split(1237)
    assert set(np.flatnonzero(parts == TRAIN)) == set(train["row"])
    assert set(np.flatnonzero(parts == TEST)) == set(test["row"])


def test_random_split_is_the_fixed_one_of_seed_2021():
    """Rows that pandas 2.2 draws from 20 rows: `DataFrame(range(20)).sample(frac=0.8, random_state=2021)`."""
    draw = np.random.RandomState(2021).choice(20, 16, replace=False)
    assert set(np.flatnonzero(random_split(20) == TRAIN)) == set(draw)
    assert [(random_split(101) == part).sum() for part in (TRAIN, VAL, TEST)] == [81, 10, 10]


def test_autoint_split_keeps_the_label_shares_and_sizes():
    labels = (np.arange(10_000) % 4 == 0).astype(np.uint8)
    parts = autoint_split(labels)
    assert [(parts == part).sum() for part in (TRAIN, VAL, TEST)] == [8000, 1000, 1000]
    assert [labels[parts == part].mean() for part in (TRAIN, VAL, TEST)] == [0.25, 0.25, 0.25]


def test_rows_beyond_ten_equal_folds_go_to_the_first_folds():
    """As in the published sizes of Criteo: 45,840,617 rows give 36,672,493 / 4,584,062 / 4,584,062."""
    parts = autoint_split(np.zeros(100_017, np.uint8))
    assert [(parts == part).sum() for part in (TRAIN, VAL, TEST)] == [80_013, 10_002, 10_002]


def test_temporal_split_keeps_equal_times_together():
    times = np.repeat(np.arange(20), 5)[np.random.default_rng(0).permutation(100)]
    parts = temporal_split(times, val=0.13, test=0.11)
    assert times[parts == TRAIN].max() < times[parts == VAL].min()
    assert times[parts == VAL].max() < times[parts == TEST].min()
    assert [times[parts == part].min() for part in (VAL, TEST)] == [15, 17]  # rows 76 and 89 fall into these times


def test_last_days_of_avazu():
    times = np.array([14102100, 14102123, 14102200, 14102300, 14102301])
    assert last_periods_split(times, 100).tolist() == [TRAIN, TRAIN, VAL, TEST, TEST]
    with pytest.raises(ValueError, match="three"):
        last_periods_split(times[:3], 100)


@pytest.mark.parametrize("shares", [(0, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_shares_that_leave_nothing_are_refused(shares):
    with pytest.raises(ValueError, match="positive"):
        temporal_split(np.arange(10), *shares)
