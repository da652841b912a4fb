"""Objects made from a group of the config."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from runner.errors import UserError

KINDS: dict[str, tuple[tuple[type, ...], str]] = {  # of annotations that are checked: classes, and what they are called
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "None": ((type(None),), "null"),
}


def build(cfg: DictConfig, group: str, **more: Any) -> Any:
    """What a group of the config describes, made of its keys and `more`.

    Raises UserError for a key that its target does not take, as where a method's file sets one for another model, and
    for a value of another kind than the target is annotated with.
    """
    node = cfg[group]
    check_kinds(node, group)
    try:
        return instantiate(node, _partial_=True)(**more)
    except TypeError as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        takes = arguments(get_object(node._target_))
        if not refused or refused[1] not in node or refused[1] in takes:
            raise
        key = f"{group}.{refused[1]}"
        raise UserError(
            f"{key} is not an argument of {node._target_}; it takes: {', '.join(takes)}\n"
            f"Leave it out: where a file of conf/ sets it, with ~{key} on the command line"
        ) from error


def check_kinds(node: Any, key: str) -> None:
    """Raises UserError where a number, a text, ... stands for an argument that is annotated as something else.

    Arguments of the objects within are looked at too; annotations other than those of `KINDS` and unions of them are
    not.
    """
    if not isinstance(node, DictConfig) or node._is_none():
        return
    takes = parameters(get_object(node._target_)) if "_target_" in node else {}
    for name in map(str, node):
        value = node[name]
        check_kinds(value, f"{key}.{name}")
        annotation = takes[name].annotation if name in takes else None
        kinds = re.split(
            r"\s*\|\s*", annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        )
        if not set(kinds) <= set(KINDS) or isinstance(value, Path):
            continue
        is_bool = isinstance(value, bool) and "bool" not in kinds  # which is an int to Python
        if is_bool or not isinstance(value, tuple(cls for kind in kinds for cls in KINDS[kind][0])):
            wanted = " or ".join(KINDS[kind][1] for kind in kinds)
            raise UserError(f"{key}.{name} must be {wanted}, got {value}")


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Arguments of a function or class by name, its bases' included where it hands them on; `...`: any other may do."""
    found: dict[str, inspect.Parameter] = {}
    classes = target.__mro__ if inspect.isclass(target) else ()
    for taker in [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)] or [target]:
        own = list(inspect.signature(taker).parameters.values())
        named = {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"}
        found |= {name: p for name, p in named.items() if name not in found}
        if all(p.kind != p.VAR_KEYWORD for p in own):
            return found
    return found | {"...": inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)}


def arguments(target: Any) -> list[str]:
    """Names of its `parameters`."""
    return list(parameters(target))
