"""Sweeps: grids of experiments, overrides of the command line, Hydra's syntax for values."""

from __future__ import annotations

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

from runner.config.compose import parse
from runner.config.grids import expand_sweep, values_of
from runner.errors import UserError


def config(sweep=None, params=None):
    return OmegaConf.create({"sweep": sweep, "hydra": {"sweeper": {"params": params}}})


def test_one_grid_is_the_product_that_hydra_makes():
    params = {"method": "a,b", "seed": "range(3)", "x": "0.1"}
    runs = expand_sweep(config(params=params), [])
    overrides = [parse(f"{key}={value}") for key, value in params.items()]
    assert runs == [list(run) for run in BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]]
    assert runs == expand_sweep(config(sweep=params), [])


def test_grids_are_expanded_one_after_the_other():
    grids = [{"method": "a,b", "seed": [0, 1]}, {"method": "c", "method.k": [2], "seed": 0}]
    assert expand_sweep(config(grids), []) == [
        ["method=a", "seed=0"],
        ["method=a", "seed=1"],
        ["method=b", "seed=0"],
        ["method=b", "seed=1"],
        ["method=c", "method.k=2", "seed=0"],
    ]


def test_the_command_line_chooses_among_the_values_of_all_grids():
    grids = [{"method": "a,b", "seed": "range(2)"}, {"method": "c", "method.k": 2, "seed": "range(2)"}]
    assert expand_sweep(config(grids), ["method=c", "seed=1"]) == [["method=c", "method.k=2", "seed=1"]]
    assert expand_sweep(config(grids), ["method=a", "seed=7"]) == [["method=a", "seed=7"]]
    assert len(expand_sweep(config(grids), ["lr=0.1,0.2"])) == 12
    assert expand_sweep(config(grids), ["method=d", "seed=0"]) == [["method=d", "seed=0"]]  # settings of the first


def test_without_a_sweep_the_command_line_alone_sweeps():
    assert expand_sweep(config(), ["seed=0,1", "~x"]) == [["seed=0", "~x"], ["seed=1", "~x"]]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("x=range(0.1,0.5,0.1)", ["0.1", "0.2", "0.3", "0.4"]),
        ("x=range(3)", ["0", "1", "2"]),
        ("x=range(5,1,-2)", ["5", "3"]),
        ("x=range(0,5,2)", ["0", "2", "4"]),
        ("x=range(8,17,8)", ["8", "16"]),
        ("x=[1,2]", ["[1,2]"]),
        ("x=[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ("x='a,b'", ["'a,b'"]),
        ("x=1,1,2", ["1", "2"]),
        ("model=glob(gi*)", ["gin", "gin_xu"]),
        ("method=glob(graphnorm/l*)", ["graphnorm/layer"]),
        ("model=glob(gi*,exclude=*xu)", ["gin"]),
    ],
)
def test_values_of_an_override(override, values):
    assert values_of(override) == values


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=range(0)", "seed=range(0) contains no value"),
        ("lr=interval(0,1)", "a grid needs single values"),
        ("dataset=glob(zzz*)", "dataset=glob(zzz*) matches no option"),
    ],
)
def test_values_that_are_none(override, message):
    with pytest.raises(UserError) as caught:
        values_of(override)
    assert message in str(caught.value)


@pytest.mark.parametrize("sweep", ["abc", [], [5], {"a": {"b": 1}}, {"a": None}])
def test_a_malformed_sweep_is_refused(sweep):
    with pytest.raises(UserError, match="sweep"):
        expand_sweep(config(sweep), [])


@pytest.mark.parametrize("argument", ["seed=interval(0,1)", "seed=range(0)", "method=glob(zzz*)", "seed='0"])
def test_a_sweep_that_cannot_be_is_one_message(call, tiny, argument):
    code, printed = call("-m", *tiny, argument)
    assert code == 2
    assert "Traceback" not in printed
    assert "ConfigLoader" not in printed
