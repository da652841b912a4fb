"""Write small files whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from datasets.files import atomic_write


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON; the folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def write_state(path: Path, state: Any) -> None:
    """Write tensors and plain values by torch; the folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        torch.save(state, temporary)
