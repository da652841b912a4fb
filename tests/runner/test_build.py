"""Objects made from the config, and keys that they do not take."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf
from torch import nn

from runner.build import build
from runner.errors import UserError


class Base:
    def __init__(self, width: int, *, depth: int = 1) -> None:
        self.width, self.depth = width, depth


class Derived(Base):
    def __init__(self, name: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.name = name


class Open(nn.Module):
    def __init__(self, width: int, **kwargs) -> None:
        super().__init__()
        self.layer = self.make_layer(**kwargs)

    def make_layer(self, bias: bool = True) -> None:
        return None


class Broken:
    def __init__(self, width: int) -> None:
        nn.ReLU(width=width)


def function(width: int) -> int:
    return width


def group(target: str, **keys) -> DictConfig:
    return OmegaConf.create({"model": {"_target_": f"tests.runner.test_build.{target}", **keys}})


def test_keys_and_further_arguments_make_the_object() -> None:
    made = build(group("Derived", depth=3), "model", name="a", width=2)
    assert (type(made).__name__, made.name, made.width, made.depth) == ("Derived", "a", 2, 3)


@pytest.mark.parametrize(
    ("target", "takes"),
    [("Base", "width, depth"), ("Derived", "name, width, depth"), ("Open", "width, ..."), ("function", "width")],
)
def test_a_key_that_is_not_taken_is_named(target, takes) -> None:
    with pytest.raises(UserError) as error:
        build(group(target, width=1, foo=1), "model", **({"name": "a"} if target == "Derived" else {}))
    message = f"model.foo is not an argument of tests.runner.test_build.{target}; it takes: {takes}\n"
    assert str(error.value).startswith(message)


def test_a_mistake_inside_the_object_is_no_key_of_the_users() -> None:
    with pytest.raises(TypeError, match="'width'"):
        build(group("Broken", width=1), "model")
