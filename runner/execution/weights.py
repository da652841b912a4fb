"""Weights from a file of the user's: a Lightning checkpoint, a state dict or safetensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
MOST_NAMES = 8  # keys that a message lists


def read_state_dict(path: Path) -> dict[str, Any]:
    """Return the state dict in a file, on the CPU.

    Args:
        path: `.safetensors`, or what torch.save wrote: a state dict, or a checkpoint with the key `state_dict` or
            `model`. Only tensors and plain containers are unpickled.

    Raises:
        ValueError: the file is none of these.
    """
    import torch

    if not path.is_file():
        raise ValueError(f"init_from={path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises errors of every kind at bytes that are no checkpoint
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch goes on with advice
        raise ValueError(f"init_from={path} is no file of weights: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"init_from={path} holds no state dict (names of parameters and tensors)")
    return dict(content)


def load_weights(module: Any, path: Path) -> None:
    """Load the weights of a file into a LightningModule, or into its `network` if the names are the network's.

    Raises:
        ValueError: a parameter is missing or has another shape; the message lists them.
    """
    state = read_state_dict(path)
    network = getattr(module, "network", None)
    if network is not None and not module.state_dict().keys() & state.keys():
        module = network
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    extra = [name for name in state if name not in expected]
    if missing or shapes:
        problems = [("missing", missing), ("of another shape", shapes), ("not of this model", extra)]
        lines = [f"  {what}: {_listed(names)}" for what, names in problems if names]
        raise ValueError("\n".join([f"init_from={path} does not fit the model:", *lines]))
    if extra:
        log.warning("init_from=%s: not of this model, left out: %s", path, _listed(extra))
    module.load_state_dict({name: state[name] for name in expected})
    log.info("starts from the weights of %s", path)


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
