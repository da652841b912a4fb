"""The benchmark of shape reconstruction: its documented commands, and what it says of a network that is not fitted."""

from __future__ import annotations

import shlex

import pytest

from datasets.shapes.solids import Solids
from runner.config.place import CONF
from scripts.bench_occnet import describe_fit, fit_network, make_parser

PAGE = CONF.parent / "docs" / "methods" / "occnet.md"
COMMANDS = [
    line.strip().partition("scripts.bench_occnet")[2]
    for line in PAGE.read_text().splitlines()
    if line.startswith("    ") and "scripts.bench_occnet" in line
]


def test_documented_commands_are_parsed():
    assert COMMANDS
    for command in COMMANDS:
        options = make_parser().parse_args(shlex.split(command, comments=True))
        assert options.fit >= 100  # documented times are of a fitted network


@pytest.mark.parametrize(
    ("steps", "score", "warned"), [(0, 0.9, True), (200, 0.0, True), (200, 0.44, True), (200, 0.5, False)]
)
def test_a_network_that_is_not_fitted_is_told(steps, score, warned):
    text = describe_fit(steps, score, solid_box=0.4)
    assert f"{steps} training steps, IoU {score:.2f}" in text
    assert ("NOT FITTED" in text) == warned


def test_without_training_the_network_counts_as_not_fitted(capsys):
    data = Solids({"train": 1, "val": 1, "test": 1}, 500, categories=["box", "cone"])
    data.setup()
    fit_network(data.parts["train"], steps=0)
    assert "NOT FITTED" in capsys.readouterr().out
