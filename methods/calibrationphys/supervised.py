"""Supervised training on contact waves: the twin of CalibrationPhys with labels, and PhysNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datasets.faces.clips import FaceClips
from methods.calibrationphys.base import LearnedWave
from methods.calibrationphys.losses import negative_pearson


class Supervised(LearnedWave):
    """1 minus the correlation with the contact wave, mean over the cameras (Yu et al. 2019). Metrics: `LearnedWave`."""

    least_sessions = 1

    def prepare(self, data: Any) -> None:
        """Take what the data says of itself.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: no training session has a contact wave.
        """
        super().prepare(data)
        if not any(bool((session.wave == session.wave).all()) for session in data.sessions["train"]):
            raise ValueError(f"supervised training needs contact waves ({self.signal}); this data has none")

    def loss(self, clips: FaceClips, factor: dict[str, Tensor]) -> Tensor:
        """Return the loss over the clips with a contact wave; zero, but differentiable, if there is none.

        Args:
            clips: normalised clips.
            factor: not used.
        """
        labelled = torch.isfinite(clips.wave).all(dim=1)
        losses = []
        for name, maps in clips.maps.items():
            use = labelled & clips.present[name]
            if use.any():
                losses.append(negative_pearson(self.network(name, maps[use]), clips.wave[use]))
        if not losses:
            return torch.stack([p.sum() * 0 for p in self.parameters()]).sum()
        return torch.stack(losses).mean()
