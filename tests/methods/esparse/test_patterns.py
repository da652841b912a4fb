"""Masks, against loops over groups, rows and thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.esparse.patterns import NM, CumulativeThreshold, MatrixThreshold, Unstructured, make_pattern
from tests.methods.esparse.reference import nm_by_hand

PATTERNS = [(2, 4), (4, 8), (1, 4), (3, 4), (2, 8), (3, 5), (1, 2), (15, 16), (9, 17), (16, 32), (100, 200)]


@settings(max_examples=80)
@given(
    pattern=st.sampled_from(PATTERNS),
    rows=st.integers(1, 4),
    groups=st.integers(1, 4),
    values=st.sampled_from([1, 3, 1000]),  # many ties, or few
    seed=st.integers(0, 99),
)
def test_nm_mask_is_that_of_a_loop_over_groups(pattern, rows, groups, values, seed):
    remove, of = pattern
    draw = np.random.default_rng(seed)
    remainder = draw.integers(of)
    scores = draw.integers(values, size=(rows, groups * of + remainder)).astype(np.float32)
    mask = NM(of - remove, of, allow_remainder=True).mask(torch.from_numpy(scores)).numpy()
    assert (mask == nm_by_hand(scores, remove, of)).all()
    assert (mask[:, : groups * of].reshape(-1, of).sum(1) == of - remove).all()
    assert mask[:, groups * of :].all()


def test_nm_mask_of_many_rows():
    scores = np.random.default_rng(0).random((600, 14)).astype(np.float32)
    assert (NM(2, 4, allow_remainder=True).mask(torch.from_numpy(scores)).numpy() == nm_by_hand(scores, 2, 4)).all()


def test_of_equal_scores_the_leftmost_goes_first():
    assert NM(2, 4).mask(torch.tensor([[5.0, 5, 5, 5, 1, 0, 0, 1]])).tolist() == [
        [False, False, True, True, True, False, False, True]
    ]
    assert NM(19, 20).mask(torch.ones(1, 20)).tolist() == [[False] + [True] * 19]
    assert Unstructured(0.5).mask(torch.ones(1, 4)).tolist() == [[False, False, True, True]]


def test_the_ratio_of_nm_is_the_share_that_is_pruned():
    assert NM(1, 4).ratio == 0.75
    assert NM(6, 8).ratio == 0.25


@pytest.mark.parametrize("pattern", ["4:4", "5:4", "0:4", "0:0"])
def test_impossible_nm_is_refused(pattern):
    with pytest.raises(ValueError, match=rf"method\.pattern={pattern} must keep"):
        make_pattern(pattern, None)


@pytest.mark.parametrize(("text", "pattern"), [("2:4", NM(2, 4)), (" 1:4", NM(1, 4)), ("16:32", NM(16, 32))])
def test_a_pattern_is_read_from_text(text, pattern):
    assert make_pattern(text, None) == pattern
    assert str(pattern) == text.strip()


@pytest.mark.parametrize("text", ["", "2", "2/4", "2:4:8", "-2:4", "a:b", "2: 4", "2.0:4", "99999:100000"])
def test_text_that_is_no_pattern_is_refused(text):
    with pytest.raises(ValueError, match=r"method\.pattern=.* must have the form N:M"):
        make_pattern(text, None)


def test_a_pattern_that_yaml_has_read_as_a_number_is_refused():
    import yaml

    number = yaml.safe_load("2:4")
    assert number == 124
    with pytest.raises(ValueError, match=r"method\.pattern=124 is not text.*in quotes"):
        make_pattern(number, None)


def test_columns_that_fill_no_group_are_refused_unless_a_remainder_is_allowed():
    NM(4, 8).check("w", 176)
    with pytest.raises(ValueError, match=r"down has 172 columns.*method\.allow_remainder=true"):
        NM(4, 8).check("down", 172)
    NM(4, 8, allow_remainder=True).check("down", 172)
    with pytest.raises(ValueError, match="has 6 columns"):
        NM(4, 8, allow_remainder=True).check("small", 6)
    Unstructured(0.5).check("any", 7)


@settings(max_examples=50)
@given(
    ratio=st.floats(0, 0.99),
    rows=st.integers(1, 4),
    columns=st.integers(1, 30),
    values=st.sampled_from([2, 1000]),
    seed=st.integers(0, 99),
)
def test_rows_lose_their_smallest(ratio, rows, columns, values, seed):
    scores = np.random.default_rng(seed).integers(values, size=(rows, columns)).astype(np.float32)
    mask = Unstructured(ratio).mask(torch.from_numpy(scores)).numpy()
    for kept, row in zip(mask, scores, strict=True):
        going = sorted(range(columns), key=lambda j, row=row: (row[j], j))[: int(columns * ratio)]
        assert np.flatnonzero(~kept).tolist() == sorted(going)


@settings(max_examples=50)
@given(
    ratio=st.floats(0.001, 0.99),
    rows=st.integers(1, 4),
    columns=st.integers(1, 30),
    values=st.sampled_from([2, 1000]),
    seed=st.integers(0, 99),
)
def test_a_matrix_loses_all_up_to_its_threshold(ratio, rows, columns, values, seed):
    scores = np.random.default_rng(seed).integers(values, size=(rows, columns)).astype(np.float32)
    threshold = np.sort(scores.flatten())[int(scores.size * ratio)]
    mask = MatrixThreshold(ratio).mask(torch.from_numpy(scores)).numpy()
    assert (mask == (scores > threshold)).all()


@pytest.mark.parametrize("group", ["row", "matrix"])
def test_ratio_zero_prunes_nothing(group):
    assert make_pattern(None, 0.0, group).mask(torch.rand(3, 5)).all()


def published_variant(scores: np.ndarray, ratio: float) -> np.ndarray:
    """Wanda's use_variant by its text: bisect the share of each row's sum whose smallest entries go."""
    ordered = np.sort(scores, axis=1)
    low, share, high = 0.0, 0.4, 0.8
    while True:
        counts = (np.cumsum(ordered, axis=1) <= share * scores.sum(1, keepdims=True)).sum(1)
        mask = np.ones(scores.shape, dtype=bool)
        for r, count in enumerate(counts):
            mask[r, np.argsort(scores[r], kind="stable")[:count]] = False
        if abs((~mask).mean() - ratio) <= 0.001:
            return mask
        low, high = (low, share) if (~mask).mean() > ratio else (share, high)
        share = (low + high) / 2


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_the_variant_prunes_by_the_rows_cumulative_scores(ratio):
    draw = np.random.default_rng(1)
    scores = np.abs(draw.normal(size=(61, 103))) * draw.uniform(0.1, 3, size=(61, 1)) * draw.uniform(0.1, 3, size=103)
    mask = CumulativeThreshold(ratio).mask(torch.from_numpy(scores)).numpy()
    assert abs((~mask).mean() - ratio) <= 0.001
    assert len(set((~mask).sum(1))) > 5  # rows differ
    assert (mask != published_variant(scores, ratio)).mean() <= 0.001
    for kept, row in zip(mask, scores, strict=True):
        assert row[~kept].max() <= row[kept].min()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None), 'set method.pattern, such as "2:4", or method.ratio'),
        (("2:4", 1.0), r"method\.ratio must lie in \[0, 1\)"),
        (("2:4", -0.1), r"method\.ratio must lie in \[0, 1\)"),
        ((None, 0.5, "column"), "method.group=column is unknown; choose from row, matrix, variant"),
        (("2:4", None, "column"), "method.group=column is unknown"),
    ],
)
def test_bad_patterns_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_pattern(*arguments)


def test_a_ratio_goes_before_nm():
    assert make_pattern("2:4", 0.3) == Unstructured(0.3)
    assert make_pattern("2:4", None, allow_remainder=True) == NM(2, 4, allow_remainder=True)
    assert isinstance(make_pattern("2:4", 0.3, "matrix"), MatrixThreshold)
