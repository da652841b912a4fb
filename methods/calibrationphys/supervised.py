"""Supervised training on contact waves: the twin of CalibrationPhys with labels, and PhysNet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.faces.clips import FaceClips
from methods.calibrationphys.base import LearnedWave
from methods.calibrationphys.losses import negative_pearson


class Supervised(LearnedWave):
    """1 minus the correlation with the contact wave, mean over the cameras (Yu et al. 2019). Metrics: `LearnedWave`."""

    least_sessions = 1

    def check_training(self, data: Any) -> None:
        """Check that there is something to learn from.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: no session of a split has a contact wave, or `LearnedWave` refuses the data.
        """
        super().check_training(data)
        for split in ("train", "val"):
            if not any(bool(np.isfinite(session.wave).all()) for session in data.sessions[split]):
                raise ValueError(f"supervised training needs contact waves ({self.signal}); {split} has none")

    def loss(self, clips: FaceClips, factor: dict[str, Tensor]) -> Tensor | None:
        """Return the loss over the clips with a contact wave; None: there is none.

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
        return torch.stack(losses).mean() if losses else None
