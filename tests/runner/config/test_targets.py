"""The class of an option, read from its files, is that of the composed config; tests/test_house.py does the methods."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from runner.config.compose import compose
from runner.config.help import choices
from runner.config.targets import target_of


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in ("model", "dataset") for option in list(choices(group))[::12]]
)
def test_targets_are_those_of_hydra(group, option):
    assert target_of(group, option) == compose(["method=esparse", f"{group}={option}"])[group]._target_


def nodes_with_target(node: Any) -> Iterator[dict[str, Any]]:
    """Yield all nodes below one that name a class."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from nodes_with_target(child)
    if isinstance(node, dict) and "${" not in str(node.get("_target_", "${")):
        yield node


def unknown_arguments(node: dict[str, Any]) -> list[str]:
    """Return the keys of a node that its class does not take."""
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    own = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
    return sorted(node.keys() - own - parameters.keys())


@pytest.mark.slow
@pytest.mark.parametrize("group", ["method", "model", "dataset"])
def test_classes_take_the_keys_of_their_nodes(group):
    wrong = {}
    for option in choices(group):
        cfg = compose([f"method={option}"] if group == "method" else ["method=esparse/dense", f"{group}={option}"])
        for node in nodes_with_target(OmegaConf.to_container(cfg[group])):
            if unknown := unknown_arguments(node):
                wrong[option, node["_target_"]] = unknown
    assert not wrong


def test_a_key_that_a_class_does_not_take_is_seen():
    sampler = {"_target_": "methods.esvae.sampling.PoissonSampler", "gradient": "rectangle", "arrivals": 3}
    assert list(map(unknown_arguments, nodes_with_target({"a": [{"sampler": sampler}]}))) == [["gradient"]]


def test_poisson_counts_differ_from_esvae_in_the_sampler_alone():
    one, other = (
        OmegaConf.to_container(compose(["method=esvae", f"model={name}"]).model) for name in ("esvae", "esvae_poisson")
    )
    assert one.pop("sampler") != other.pop("sampler")
    assert one == other
