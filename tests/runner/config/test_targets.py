"""The class of an option, read from its files, is that of the composed config; tests/test_house.py does the methods."""

from __future__ import annotations

import pytest

from runner.config.compose import compose
from runner.config.help import choices
from runner.config.targets import target_of


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in ("model", "dataset") for option in list(choices(group))[::12]]
)
def test_targets_are_those_of_hydra(group, option):
    assert target_of(group, option) == compose(["method=esparse", f"{group}={option}"])[group]._target_
