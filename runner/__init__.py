"""Runner: composes, addresses, executes, records and compares runs. It knows no method by name.

`runner.load` and `runner.runs` return finished runs as objects.
"""

from __future__ import annotations

import os
from typing import Any

# Threads that wait by spinning take the cores of other processes: with two threads on two busy cores, pruning took five
# times the processor time. OpenMP reads this when torch is imported, which no command does before this package.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["load", "runs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from runner import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'runner' has no attribute '{name}'")
