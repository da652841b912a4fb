"""Methods without training as modules: a formula turns colours, their moments or flow into a wave."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.faces.clips import FaceClips
from methods.calibrationphys.base import RateModule

Formula = Callable[[np.ndarray, float], np.ndarray]


class HandCrafted(RateModule):
    """Formula for a wave. Metrics are those of `RateModule`.

    Args:
        network: placeholder.
        formula: function of what the subclass takes from the maps, and of the rate in Hz, to waves (B, T).
        band: band of the rates in Hz; None: that of the signal.
        channels: number of colour channels that the formula needs.
    """

    source_needed = "rgb"

    def __init__(
        self, network: nn.Module, formula: Formula, band: Sequence[float] | None = None, channels: int = 3
    ) -> None:
        super().__init__(network, band)
        self.formula, self.channels = formula, channels

    def prepare(self, data: Any) -> None:
        """Take signal, input and rate of the data.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: the data has other inputs or fewer colours than the formula takes.
        """
        super().prepare(data)
        if self.source != self.source_needed:
            raise ValueError(f"this method needs dataset.input={self.source_needed}, it is {self.source}")
        few = [name for name, count in data.dims["channels"].items() if count < self.channels]
        if few and self.source_needed == "rgb":
            raise ValueError(f"this method needs {self.channels} colours; camera {few[0]} has fewer")

    @abstractmethod
    def values(self, clips: FaceClips, camera: str) -> np.ndarray:
        """Return what the formula takes.

        Args:
            clips: windows.
            camera: name of the camera.
        """

    def waves(self, clips: FaceClips) -> dict[str, Tensor]:
        """Return the wave of each camera, (B, T)."""
        found = {}
        for name in self.cameras:
            if name in clips.present and bool(clips.present[name].any()):
                found[name] = torch.from_numpy(self.formula(self.values(clips, name), clips.fs).copy())
        return found


class MeanColour(HandCrafted):
    """Formula on the mean colour of skin, (B, T, C)."""

    def values(self, clips: FaceClips, camera: str) -> np.ndarray:
        """Return the mean over the skin pixels of the box; of maps without them, over the patches."""
        return clips.moments[camera][:, :, :-1, -1].double().cpu().numpy()


class SkinMoments(HandCrafted):
    """Formula on the second moments of skin colours, (B, T, C, C)."""

    def values(self, clips: FaceClips, camera: str) -> np.ndarray:
        """Return the moments."""
        return clips.moments[camera][:, :, :-1, :-1].double().cpu().numpy()


class PatchFlow(HandCrafted):
    """Formula on the vertical speed of the patches, (B, T, M)."""

    source_needed = "flow"

    def values(self, clips: FaceClips, camera: str) -> np.ndarray:
        """Return the speeds."""
        return clips.maps[camera][:, 0].double().transpose(1, 2).cpu().numpy()
