"""Objects made from a group of the config."""

from __future__ import annotations

import inspect
import re
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from runner.errors import UserError


def build(cfg: DictConfig, group: str, **more: Any) -> Any:
    """What a group of the config describes, made of its keys and `more`.

    Raises UserError for a key that its target does not take, as where a method's file sets one for another model.
    """
    node = cfg[group]
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


def arguments(target: Any) -> list[str]:
    """Names that a function or class takes, those that go on to its bases included; `...` where any other may do."""
    names: dict[str, None] = {}
    classes = target.__mro__ if inspect.isclass(target) else ()
    for taker in [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)] or [target]:
        parameters = list(inspect.signature(taker).parameters.values())
        names |= dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        names.pop("self", None)
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            return list(names)
    return [*names, "..."]
