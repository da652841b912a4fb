"""What runs leave behind for others that need them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def weights_below(checkpoint: Path, *prefixes: str) -> dict[str, Tensor]:
    """The weights of a run's module whose names begin with the first of the prefixes that any has, without it."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    for prefix in prefixes:
        if own := {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}:
            return own
    return {}
