"""Find the class that an option of a group instantiates from its files alone: composing all options takes a minute."""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath
from typing import Any

import yaml

from runner.config.place import CONF


def target_of(group: str, option: str) -> str | None:
    """Return the `_target_` of a method, model or data set, or None if its files name none.

    Follows the defaults of a file as Hydra does: a later one wins, the file itself last unless `_self_` is elsewhere.

    Args:
        group: group of conf/, `method`, `model` or `dataset`.
        option: option of the group, without `.yaml`.
    """
    return _target(f"{group}/{option}", None, group)


def _target(path: str, package: str | None, group: str) -> str | None:
    content, is_global = _read(path)
    own = content if package or not is_global else content.get(group) or {}
    found = None
    defaults = content.get("defaults", [])
    for entry in [*defaults, *([] if "_self_" in defaults else ["_self_"])]:
        if entry == "_self_":
            found = own.get("_target_", found)
        elif isinstance(entry, str):
            name, _, sub = entry.partition("@")
            if sub in ("", "_here_", group):
                parent = name if name.startswith("/") else f"/{PurePosixPath(path).parent / name}"
                found = _target(parent.lstrip("/"), sub or package, group) or found
    return found


@cache
def _read(path: str) -> tuple[dict[str, Any], bool]:
    """Return the content of a file of conf/, and whether its package is the root of the config."""
    text = (CONF / f"{path}.yaml").read_text()
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}, "# @package _global_" in text
