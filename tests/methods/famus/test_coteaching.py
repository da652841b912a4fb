"""Co-teaching's choice of samples against brute force, and how many it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.famus.coteaching import CoTeaching, exchange_small_losses, remember_rate
from tests.methods.networks import small_network


@given(st.lists(st.tuples(*[st.floats(-5, 5, width=32)] * 2), min_size=1, max_size=20), st.data())
def test_each_network_learns_what_the_other_finds_easy(pairs, data):
    count = data.draw(st.integers(1, len(pairs)))
    losses = torch.tensor(pairs).T
    for places, by_other in zip(exchange_small_losses(*losses, count), losses.flip(0).tolist(), strict=True):
        assert len(set(places.tolist())) == count
        assert sorted(by_other[i] for i in places) == sorted(by_other)[:count]


@pytest.mark.parametrize(("rate", "gradual"), [(0.4, 10), (0.2, 3), (0.5, 1)])
def test_the_remember_rate_falls_in_a_line(rate, gradual):
    forget = np.full(20, rate)
    forget[:gradual] = np.linspace(0, rate, gradual) if gradual > 1 else rate
    assert [remember_rate(epoch, rate, gradual) for epoch in range(20)] == pytest.approx(list(1 - forget))


def test_a_rate_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"method\.forget_rate must be in \[0, 1\), got 1"):
        CoTeaching(small_network(), forget_rate=1.0)
