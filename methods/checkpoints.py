"""Weights from the checkpoints of other runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def weights_below(checkpoint: Path, *prefixes: str) -> dict[str, Tensor]:
    """Return the weights of a part of a run's module.

    Args:
        checkpoint: checkpoint that a run has left.
        *prefixes: beginnings of names in the module's state, such as "network."; the first that occurs is taken.

    Returns:
        The tensors whose names begin with that prefix, under their names without it; empty if none occurs.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    for prefix in prefixes:
        if own := {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}:
            return own
    return {}
