"""Instantiate the objects that config groups describe."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from runner.errors import UserError

# Annotations that are checked: accepted classes, and how a message names them.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "None": ((type(None),), "null"),
}


def instantiate(cfg: DictConfig, group: str, **more: Any) -> Any:
    """Instantiate a group of the config.

    Args:
        cfg: config with the group's node.
        group: name of the group, such as "method", or of a node in it, such as "logger.wandb".
        **more: arguments that the runner adds, such as a network.

    Raises:
        UserError: the target does not take one of the node's keys, or a value is of another type than the target's
            annotation says.
    """
    node = OmegaConf.select(cfg, group)
    check_types(node, group)
    try:
        return hydra.utils.instantiate(node, _partial_=True)(**more)
    except TypeError as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        accepted = list(parameters(get_object(node._target_)))
        if not refused or refused[1] not in node or refused[1] in accepted:
            raise
        key = f"{group}.{refused[1]}"
        raise UserError(
            f"{key} is not an argument of {node._target_}; its arguments: {', '.join(accepted)}\n"
            f"Leave it out: if a file of conf/ sets it, with ~{key} on the command line"
        ) from error


def check_types(node: Any, key: str) -> None:
    """Check the values of a node, and of the nodes in it, against the annotations of their targets.

    Only annotations of `KINDS`, of Literal, and unions of them are checked.

    Raises:
        UserError: a value has another type, or is none of a Literal's choices.
    """
    if not isinstance(node, DictConfig) or node._is_none():
        return
    arguments = parameters(get_object(node._target_)) if "_target_" in node else {}
    for name in map(str, node):
        value = node[name]
        check_types(value, f"{key}.{name}")
        if name in arguments and not isinstance(value, Path):
            _check_value(value, arguments[name].annotation, f"{key}.{name}")


def _check_value(value: Any, annotation: Any, key: str) -> None:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if choices := re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", text):
        options = [option.strip().strip("'\"") for option in choices[1].split(",")]
        if str(value) not in options:
            raise UserError(f"{key} must be one of {', '.join(options)}, got {value}")
        return
    kinds = re.split(r"\s*\|\s*", text)
    if not set(kinds) <= set(KINDS):
        return
    is_bool = isinstance(value, bool) and "bool" not in kinds  # which is an int to Python
    if is_bool or not isinstance(value, tuple(cls for kind in kinds for cls in KINDS[kind][0])):
        expected = " or ".join(KINDS[kind][1] for kind in kinds)
        raise UserError(f"{key} must be {expected}, got {value}")


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
