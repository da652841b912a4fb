"""Objects made from the config, and keys that they do not take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from runner.config.instantiate import instantiate
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
    return OmegaConf.create({"model": {"_target_": f"tests.runner.config.test_instantiate.{target}", **keys}})


def test_keys_and_further_arguments_make_the_object() -> None:
    made = instantiate(group("Derived", depth=3), "model", name="a", width=2)
    assert (type(made).__name__, made.name, made.width, made.depth) == ("Derived", "a", 2, 3)


@pytest.mark.parametrize(
    ("target", "takes"),
    [("Base", "width, depth"), ("Derived", "name, width, depth"), ("Open", "width, ..."), ("function", "width")],
)
def test_a_key_that_is_not_taken_is_named(target, takes) -> None:
    with pytest.raises(UserError) as error:
        instantiate(group(target, width=1, foo=1), "model", **({"name": "a"} if target == "Derived" else {}))
    message = f"model.foo is not an argument of tests.runner.config.test_instantiate.{target}; its arguments: {takes}\n"
    assert str(error.value).startswith(message)


def test_a_mistake_inside_the_object_is_no_key_of_the_users() -> None:
    with pytest.raises(TypeError, match="'width'"):
        instantiate(group("Broken", width=1), "model")


class Typed(Base):
    def __init__(self, rate: float, name: str | None = None, flag: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rate": "fast"}, "method.rate must be a number, got fast"),
        ({"rate": True}, "method.rate must be a number, got True"),
        ({"rate": None}, "method.rate must be a number, got None"),
        ({"rate": 1, "width": 2.5}, "method.width must be a whole number, got 2.5"),
        ({"rate": 1, "depth": "two"}, "method.depth must be a whole number, got two"),
        ({"rate": 1, "name": 3}, "method.name must be text or null, got 3"),
        ({"rate": 1, "flag": 1}, "method.flag must be true or false, got 1"),
        ({"rate": {"_target_": "math.sqrt"}}, "method.rate must be a number, got "),
        ({"rate": 1, "inner": {"_target_": f"{__name__}.Base", "width": "w"}}, "method.inner.width must be a whole"),
    ],
)
def test_values_of_another_kind(keys, said):
    node = {"_target_": f"{__name__}.Typed", "width": 1} | keys
    with pytest.raises(UserError, match=said):
        instantiate(OmegaConf.create({"method": node}), "method")


class Listed:
    def __init__(
        self,
        widths: Sequence[int],
        betas: tuple[float, float] = (0.9, 0.999),
        steps: tuple[int, ...] = (),
        columns: str | Sequence[str | None] | None = None,
        counts: Mapping[str, int] | None = None,
        nested: Sequence[Sequence[int]] = (),
    ) -> None:
        self.widths = widths


LISTED = {"_target_": f"{__name__}.Listed"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"widths": 8}, "method.widths must be a list, got 8"),
        ({"widths": "abc"}, "method.widths must be a list, got abc"),
        ({"widths": [8, 8.5]}, r"method.widths\[1\] must be a whole number, got 8.5"),
        ({"widths": [], "betas": [0.9]}, "method.betas must have 2 values, got"),
        ({"widths": [], "betas": [0.9, "a"]}, r"method.betas\[1\] must be a number, got a"),
        ({"widths": [], "steps": [1, "b"]}, r"method.steps\[1\] must be a whole number, got b"),
        ({"widths": [], "columns": 3}, "method.columns must be a list or text or null, got 3"),
        ({"widths": [], "columns": ["a", 3]}, r"method.columns\[1\] must be text or null, got 3"),
        ({"widths": [], "counts": [3]}, "method.counts must be a mapping or null, got"),
        ({"widths": [], "counts": {"c1": "many"}}, "method.counts.c1 must be a whole number, got many"),
        ({"widths": [], "nested": [[1], [2, None]]}, r"method.nested\[1\]\[1\] must be a whole number, got None"),
    ],
)
def test_lists_and_mappings_of_another_kind(keys, said):
    with pytest.raises(UserError, match=said):
        instantiate(OmegaConf.create({"method": LISTED | keys}), "method")


@pytest.mark.parametrize("columns", ["a", ["a", None], None])
def test_lists_and_mappings_of_the_right_kind(columns):
    keys = {"widths": [1], "betas": [0, 1.5], "steps": [1, 2, 3], "columns": columns, "counts": {"a": 1}}
    assert instantiate(OmegaConf.create({"method": LISTED | keys | {"nested": [[1]]}}), "method").widths == [1]


def test_values_of_the_right_kind():
    node = {"_target_": f"{__name__}.Typed", "width": 1, "rate": 2, "name": None, "flag": True}
    assert instantiate(OmegaConf.create({"method": node}), "method").width == 1


class Composed:
    def __init__(
        self,
        part: nn.Module | None = None,
        rule: Callable[[int], int] | None = None,
        parts: Mapping[str, Base] | None = None,
        stages: Sequence[Base] = (),
        options: Mapping[str, Any] | None = None,
        size: int | Sequence[int] = 1,
        file: Path | None = None,
        either: str | Base = "",
    ) -> None:
        self.part, self.options = part, options


@pytest.mark.parametrize(
    "keys",
    [
        {"part": "wanda"},
        {"part": True},
        {"rule": "cosine"},
        {"parts": {"mine": "wanda"}},
        {"stages": [1]},
        {"inner": {"_target_": f"{__name__}.Composed", "part": 3}},
    ],
)
def test_a_plain_value_in_the_place_of_an_object(keys):
    with pytest.raises(UserError, match=r"^method\..* must be a node with a _target_, got "):
        instantiate(OmegaConf.create({"method": {"_target_": f"{__name__}.Composed"} | keys}), "method")


def test_a_plain_value_in_the_place_of_a_mapping():
    node = {"_target_": f"{__name__}.Composed", "options": "a"}
    with pytest.raises(UserError, match=r"method\.options must be a mapping or null, got a"):
        instantiate(OmegaConf.create({"method": node}), "method")


def test_plain_values_where_they_may_stand():
    node = {"part": None, "options": {"a": 1}, "size": 3, "file": "a.txt", "either": "text", "stages": []}
    made = instantiate(OmegaConf.create({"method": {"_target_": f"{__name__}.Composed"} | node}), "method")
    assert made.options == {"a": 1}


def test_keys_without_a_target_in_the_place_of_an_object():
    cfg = OmegaConf.create({"method": {"_target_": f"{__name__}.Composed", "part": {"lr": 0.1, "decay": 0.0}}})
    with pytest.raises(
        UserError, match=r"^method\.part must be a node with a _target_, it has lr, decay; .*~method\.part"
    ):
        instantiate(cfg, "method")


def test_keys_without_a_value_are_all_named():
    node = {"_target_": f"{__name__}.Base", "width": "???", "depth": "???"}
    with pytest.raises(UserError, match=r"^no value is given for model\.depth, model\.width: add model\.depth=\.\.\. "):
        instantiate(OmegaConf.create({"model": node}), "model")


@pytest.mark.parametrize("partial", [True, False])
def test_keys_that_no_target_takes_are_named_at_any_depth(partial):
    inner = {"_target_": f"{__name__}.Base", "_partial_": partial, "widht": 1}
    cfg = OmegaConf.create({"method": {"_target_": f"{__name__}.Composed", "part": inner}})
    with pytest.raises(UserError, match=r"^method\.part\.widht is not an argument of .*Base; its arguments: width"):
        instantiate(cfg, "method")


class Trained:
    def __init__(
        self, optimizer: Callable[..., Any] | None = None, scheduler: Callable[..., Any] | None = None
    ) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler


@pytest.mark.parametrize(
    ("argument", "target", "settings", "said"),
    [
        ("optimizer", "Adam", {"lr": -1}, "Adam does not take lr=-1: Invalid learning rate"),
        ("optimizer", "SGD", {"lr": 0.1, "weight_decay": -1}, "weight_decay=-1: Invalid weight_decay"),
        ("optimizer", "SGD", {"lr": 0.1, "nesterov": True}, "nesterov=True: Nesterov momentum requires"),
        ("scheduler", "lr_scheduler.StepLR", {"step_size": 0}, "StepLR does not take step_size=0: "),
        ("scheduler", "lr_scheduler.OneCycleLR", {"max_lr": 1.0, "total_steps": 0}, "total_steps=0: Expected positive"),
    ],
)
def test_settings_that_torch_refuses_are_named(argument, target, settings, said):
    node = {argument: {"_target_": f"torch.optim.{target}", "_partial_": True} | settings}
    with pytest.raises(UserError, match=rf"^method\.{argument}: .*{said}"):
        instantiate(OmegaConf.create({"method": {"_target_": f"{__name__}.Trained"} | node}), "method")


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        ("MultiStepLR", {"milestones": [1, 2]}),
        ("OneCycleLR", {"max_lr": 2.5, "total_steps": 10}),
        ("ReduceLROnPlateau", {"factor": 0.5}),
    ],
)
def test_settings_that_torch_takes(scheduler, settings):
    node = {
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1, "betas": [0.8, 0.9]},
        "scheduler": {"_target_": f"torch.optim.lr_scheduler.{scheduler}", "_partial_": True} | settings,
    }
    made = instantiate(OmegaConf.create({"method": {"_target_": f"{__name__}.Trained"} | node}), "method")
    made.scheduler(made.optimizer([nn.Parameter(torch.zeros(1))]))


def test_settings_that_the_method_gives_may_be_missing():
    node = {"scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "_partial_": True, "eta_min": 0}}
    made = instantiate(OmegaConf.create({"method": {"_target_": f"{__name__}.Trained"} | node}), "method")
    made.scheduler(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), T_max=3)
