"""Runner: composes, addresses, executes, records and compares runs. It knows no method by name.

`runner.load` and `runner.runs` return finished runs as objects.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load", "runs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from runner import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'runner' has no attribute '{name}'")
