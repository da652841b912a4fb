"""Import libraries that only some methods need."""

from __future__ import annotations

import importlib
from typing import Any


def import_optional(module: str, package: str, wanted_by: str) -> Any:
    """Import a module of an optional library.

    Args:
        module: full name of the module.
        package: name of the library for pip.
        wanted_by: what needs it.

    Raises:
        ValueError: it is not installed. The message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = "export" if package.startswith("onnx") else "compression"
        hint = f"pip install -c constraints.txt '.[{extra}]'"
        raise ValueError(f"{wanted_by} needs the library {package}: {hint} ({error})") from error
