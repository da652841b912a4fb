"""Windows of tokens, against the published sampling, draw by draw."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets.text.windows import consecutive_windows, document_windows, text_windows

DOCUMENTS = [chr(97 + i % 26) * n for i, n in enumerate([3, 40, 17, 9, 100, 16, 31, 8, 64, 15])]


def encode(text: str) -> list[int]:
    """BOS, then a number for each character that says which one it is."""
    return [1, *(1000 * ord(c) + i for i, c in enumerate(text))]


def published(documents: list[str], samples: int, length: int, seed: int) -> list[list[int]]:
    """Wanda's get_c4, with its use of Python's own random numbers."""
    state = random.getstate()
    random.seed(seed)
    found = []
    for _ in range(samples):
        while True:
            i = random.randint(0, len(documents) - 1)
            tokens = encode(documents[i])
            if len(tokens) > length:
                break
        i = random.randint(0, len(tokens) - length - 1)
        found.append(tokens[i : i + length])
    random.setstate(state)
    return found


@given(samples=st.integers(1, 30), length=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
def test_document_windows_are_the_published_draws(samples, length, seed):
    found = document_windows(DOCUMENTS, encode, samples, length, seed)
    assert found.dtype == torch.int64
    assert found.tolist() == published(DOCUMENTS, samples, length, seed)


def test_drawing_leaves_pythons_random_numbers_alone():
    random.seed(5)
    wanted = random.random()
    random.seed(5)
    document_windows(DOCUMENTS, encode, 3, 10, 0)
    text_windows(DOCUMENTS, encode, 3, 10, 0)
    assert random.random() == wanted


@pytest.mark.parametrize("length", [101, 500])  # the longest document has 101 tokens, and must have more
def test_where_no_document_is_long_enough_it_says_so(length):
    with pytest.raises(ValueError, match=rf"no calibration document has more than {length} tokens.*sampling=text"):
        document_windows(DOCUMENTS, encode, 2, length, 0)


def test_short_documents_are_encoded_once():
    asked = []

    def counting(text: str) -> list[int]:
        asked.append(text)
        return encode(text)

    document_windows(DOCUMENTS, counting, 20, 90, 0)
    short = [text for text in asked if len(text) < 90]
    assert len(short) == len(set(short))


@given(samples=st.integers(1, 20), length=st.integers(1, 320), seed=st.integers(0, 99))
def test_text_windows_are_random_windows_of_all_documents_in_one(samples, length, seed):
    tokens, draw = encode("\n\n".join(DOCUMENTS)), random.Random(seed)
    starts = [draw.randint(0, len(tokens) - length - 1) for _ in range(samples)]
    found = text_windows(DOCUMENTS, encode, samples, length, seed)
    assert found.dtype == torch.int64
    assert found.tolist() == [tokens[start : start + length] for start in starts]


def test_a_text_shorter_than_a_window_is_said():
    with pytest.raises(ValueError, match=r"the calibration text has 12 tokens, a window has 12.*calibration\.length"):
        text_windows(["abcd", "efghi"], encode, 1, 12, 0)


@given(length=st.integers(2, 320), limit=st.one_of(st.none(), st.integers(1, 9)))
def test_consecutive_windows_cut_the_text_and_drop_its_tail(length, limit):
    tokens = encode("\n\n".join(DOCUMENTS))
    found = consecutive_windows(DOCUMENTS, encode, length, limit)
    count = len(tokens) // length
    assert found.dtype == torch.int64
    assert found.shape == (count if limit is None else min(count, limit), length)
    assert found.flatten().tolist() == tokens[: found.numel()]


def test_a_text_shorter_than_one_window_is_said():
    with pytest.raises(ValueError, match=r"the text has 5 tokens, fewer than a window of 6: lower dataset\.window"):
        consecutive_windows(["abcd"], encode, 6)


@pytest.mark.parametrize("draw", [document_windows, text_windows])
@pytest.mark.parametrize("documents", [[], [""]])
def test_no_text_at_all_is_said(draw, documents):
    with pytest.raises(ValueError, match=r"calibration (text|document)"):
        draw(documents, encode, 1, 8, 0)
