"""Weights of a camera's network from the checkpoint of another run."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor, nn

from methods.checkpoints import weights_below

log = logging.getLogger(__name__)


def camera_weights(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """Return the weights of the networks in a checkpoint, by camera.

    Args:
        checkpoint: checkpoint of a run with a network for each camera.

    Raises:
        ValueError: there is no such file, or it holds no such networks.
    """
    if not checkpoint.is_file():
        raise ValueError(f"method.pretrained={checkpoint} is no file")
    weights: dict[str, dict[str, Tensor]] = {}
    for name, value in weights_below(checkpoint, "network.networks.").items():
        camera, _, rest = name.partition(".")
        weights.setdefault(camera, {})[rest] = value
    if not weights:
        raise ValueError(f"method.pretrained={checkpoint} holds no networks of cameras")
    return weights


def load_camera(network: nn.Module, checkpoint: Path, source: str | None, camera: str) -> None:
    """Load a camera's network from a checkpoint.

    Args:
        network: network to fill.
        checkpoint: checkpoint of a run with a network for each camera.
        source: camera of the checkpoint; None: of the same name, else its first one.
        camera: camera that the network belongs to.

    Raises:
        ValueError: the checkpoint has no such camera, or its network has other shapes.
    """
    weights = camera_weights(checkpoint)
    name = source or (camera if camera in weights else next(iter(weights)))
    if name not in weights:
        raise ValueError(f"method.source_camera={name}: the checkpoint has {', '.join(weights)}")
    if source is None and name != camera:
        log.warning("%s has no camera %s: its network starts from that of camera %s", checkpoint, camera, name)
    try:
        network.load_state_dict(weights[name])
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(
            f"method.pretrained={checkpoint} does not fit the network of camera {camera}: {first}"
        ) from error
