"""Instantiate the objects that config groups describe."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import hydra.utils
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from runner.errors import UserError

UNIONS = (Union, UnionType)
HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
# Annotations that are checked: accepted classes, and how a message names them.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "None": ((type(None),), "null"),
    "list": ((list, ListConfig), "a list"),
    "dict": ((dict, DictConfig), "a mapping"),
}
LIST = re.compile(r"(?:Sequence|Iterable|list|tuple)\[(.+)\]")
MAPPING = re.compile(r"(?:Mapping|dict)\[str, (.+)\]")


def instantiate(cfg: DictConfig, group: str, **more: Any) -> Any:
    """Instantiate a group of the config.

    Args:
        cfg: config with the group's node.
        group: name of the group, such as "method", or of a node in it, such as "logger.wandb".
        **more: arguments that the runner adds, such as a network.

    Raises:
        UserError: a mandatory key has no value, the target does not take one of the node's keys, or a value is of
            another type than the target's annotation says.
    """
    node = OmegaConf.select(cfg, group)
    check_given(node)
    check_node(node, group)
    try:
        return hydra.utils.instantiate(node, _partial_=True)(**more)
    except TypeError as error:  # of a target whose **kwargs go where `check_node` cannot follow
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        accepted = list(parameters(get_object(node._target_)))
        if not refused or refused[1] not in node or refused[1] in accepted:
            raise
        raise not_taken(f"{group}.{refused[1]}", node._target_, accepted) from error


def check_given(node: Any) -> None:
    """Raise UserError if keys of a node have no value yet (`???` in a file of conf/); it names all of them."""
    if keys := sorted(OmegaConf.missing_keys(node) if OmegaConf.is_config(node) else ()):
        raise UserError(f"no value is given for {', '.join(keys)}: add {' '.join(f'{key}=...' for key in keys)}")


def not_taken(key: str, target: str, accepted: Iterable[str]) -> UserError:
    """Return the error of a key that is no argument of its target."""
    return UserError(
        f"{key} is not an argument of {target}; its arguments: {', '.join(accepted)}\n"
        f"Leave it out: if a file of conf/ sets it, with ~{key} on the command line"
    )


def check_node(node: Any, key: str) -> None:
    """Check the keys and values of a node, and of the nodes in it, against the signatures of their targets.

    Values are checked where the annotation is one of `KINDS`, a Literal, a list or mapping of these, or a union, and
    where it is an object, a function, or a mapping or list of them, in whose place no plain value may stand.

    Raises:
        UserError: a key is no argument of its target; a value has another type, is none of a Literal's choices, or
            stands where an object must be.
    """
    if not isinstance(node, DictConfig) or node._is_none():
        return
    target = get_object(node._target_) if "_target_" in node else None
    arguments, hints = (parameters(target), _hints(target)) if target else ({}, {})
    for name in map(str, node):
        value = node[name]
        check_node(value, f"{key}.{name}")
        if target and name not in arguments and name not in HYDRA_KEYS and "..." not in arguments:
            raise not_taken(f"{key}.{name}", node._target_, arguments)
        if name in arguments and not isinstance(value, Path):
            _check_value(value, arguments[name].annotation, f"{key}.{name}")
        if name in hints:
            _check_object(value, hints[name], f"{key}.{name}")
    if inspect.isclass(target) and target.__module__.startswith("torch.optim"):
        _check_optimizer(target, node, key)


def _hints(target: Any) -> dict[str, Any]:
    """Return the annotations of a target's parameters as objects, as far as their names can be resolved."""
    found: dict[str, Any] = {}
    functions = [vars(c).get("__init__") for c in target.__mro__[::-1]] if inspect.isclass(target) else [target]
    for function in filter(None, functions):
        with suppress(Exception):  # names that only a type checker imports
            found |= get_type_hints(function)
    return found


def _check_object(value: Any, hint: Any, key: str) -> None:
    """Raise UserError if a plain value stands where the annotation has an object or a function."""
    members = [m for m in (get_args(hint) if get_origin(hint) in UNIONS else (hint,)) if m is not type(None)]
    if isinstance(value, bool | int | float | str):
        if members and all(map(_is_object, members)):
            raise UserError(f"{key} must be a node with a _target_, got {value}")
    elif isinstance(value, DictConfig) and "_target_" not in value and members and all(map(_is_object, members)):
        keys = ", ".join(map(str, value)) or "no keys"
        raise UserError(f"{key} must be a node with a _target_, it has {keys}; without it: ~{key} on the command line")
    elif OmegaConf.is_list(value) or (isinstance(value, DictConfig) and "_target_" not in value):
        items = value.items() if isinstance(value, DictConfig) else enumerate(value)
        of = [get_args(member)[-1] for member in members if get_args(member) and not _is_object(member)]
        for name, item in items if len(of) == 1 else ():
            _check_object(item, of[0], f"{key}.{name!s}")


def _is_object(hint: Any) -> bool:
    """Return whether an annotation is a function, or a class that no plain value of YAML is an instance of."""
    if get_origin(hint) is Callable:
        return True
    plain = (str, int, float, bool, list, tuple, dict, object, Path, Any)
    return inspect.isclass(hint) and get_origin(hint) is None and hint not in plain


def _check_optimizer(target: type, node: DictConfig, key: str) -> None:
    """Raise UserError if a torch optimizer or scheduler refuses its settings when it is made and takes a step.

    Settings that are missing are left to the method, which may give them itself.
    """
    import torch

    settings: dict[str, Any] = {str(name): node[name] for name in node if name not in HYDRA_KEYS}
    weights = [torch.nn.Parameter(torch.zeros(1))]
    try:
        if issubclass(target, torch.optim.Optimizer):
            target(weights, **settings)
        elif issubclass(target, torch.optim.lr_scheduler.LRScheduler):
            optimizer = torch.optim.SGD(weights, momentum=0.9)  # which cyclic schedules ask for
            scheduler = target(optimizer, **settings)
            optimizer.step()
            if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):  # whose step takes a metric
                scheduler.step()
    except TypeError:
        return
    except (ValueError, ArithmeticError) as error:
        given = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise UserError(f"{key}: {target.__name__} does not take {given}: {error}") from error


def _check_value(value: Any, annotation: Any, key: str) -> None:
    """Raise UserError if a value, or one in its list or mapping, is not of the annotation's kind."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if choices := re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", text):
        options = [option.strip().strip("'\"") for option in choices[1].split(",")]
        if str(value) not in options:
            raise UserError(f"{key} must be one of {', '.join(options)}, got {value}")
        return
    kinds = re.split(r"\s*\|\s*(?![^\[]*\])", text)
    lists = [found[1] for kind in kinds if (found := LIST.fullmatch(kind))]
    mappings = [found[1] for kind in kinds if (found := MAPPING.fullmatch(kind))]
    if (lists or mappings) and isinstance(value, DictConfig) and "_target_" in value:
        return  # what it makes is not known yet
    if lists and isinstance(value, list | tuple | ListConfig):
        if len(lists) == 1:
            _check_items(value, lists[0], key)
        return
    if mappings and isinstance(value, dict | DictConfig):
        for name, item in value.items() if len(mappings) == 1 else ():
            _check_value(item, mappings[0], f"{key}.{name!s}")
        return
    plain = [kind for kind in kinds if kind in KINDS]
    if len(plain) + len(lists) + len(mappings) < len(kinds):
        return
    is_bool = isinstance(value, bool) and "bool" not in kinds  # which is an int to Python
    if is_bool or not isinstance(value, tuple(cls for kind in plain for cls in KINDS[kind][0])):
        words = ["a list"] * bool(lists) + ["a mapping"] * bool(mappings) + [KINDS[kind][1] for kind in plain]
        raise UserError(f"{key} must be {' or '.join(words)}, got {value}")


def _check_items(values: Sequence[Any], kinds: str, key: str) -> None:
    """Raise UserError if a list has another length than its annotation, or a value of another kind.

    Args:
        values: the list.
        kinds: text between the brackets of the annotation: `int`, `int, ...` or, for a pair, `int, int`.
        key: full key, for messages.
    """
    of = re.split(r",\s*(?![^\[]*\])", kinds)
    if len(of) == 1 or of[-1] == "...":
        of = of[:1] * len(values)
    if len(values) != len(of):
        raise UserError(f"{key} must have {len(of)} values, got {values}")
    for i, (item, kind) in enumerate(zip(values, of, strict=True)):
        _check_value(item, kind, f"{key}[{i}]")


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Return the signature parameters of a function or class by name.

    **kwargs are followed into base classes. The result contains "..." if arbitrary keywords are accepted.
    """
    found: dict[str, inspect.Parameter] = {}
    classes = target.__mro__ if inspect.isclass(target) else ()
    for function in [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)] or [target]:
        own = list(inspect.signature(function).parameters.values())
        named = {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"}
        found |= {name: p for name, p in named.items() if name not in found}
        if all(p.kind != p.VAR_KEYWORD for p in own):
            return found
    return found | {"...": inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)}
