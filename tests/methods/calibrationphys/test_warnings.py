"""Warnings of a test whose waves mean nothing."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Trainer

from datasets.faces.synthetic_data import SyntheticFaces
from methods.calibrationphys.module import CalibrationPhys
from methods.calibrationphys.networks import CameraPhysNet2D

FS = 15.0  # Hz


class Oscillators(CameraPhysNet2D):
    """Networks whose waves are a sine of one rate, whatever they see."""

    rate = 1.2  # Hz

    def forward(self, camera: str, maps: torch.Tensor) -> torch.Tensor:
        time = torch.arange(maps.shape[-1]) / FS
        return torch.sin(2 * torch.pi * self.rate * time).expand(len(maps), -1)


@pytest.mark.parametrize(("rate", "warned"), [(1.2, False), (5.0, True)])
def test_waves_outside_of_the_band_are_warned_of(tmp_path, caplog, rate, warned):
    sessions, scene = {"train": 2, "val": 2, "test": 2}, {"grid": 4, "seconds": 13.0}
    data = SyntheticFaces(sessions=sessions, scene=scene, fs=FS, clip_length=120, batch_size=2)
    data.setup()
    network = Oscillators(**data.dims, width=4)
    network.rate = rate
    module = CalibrationPhys(network)
    module.prepare(data)
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path).test(module, data)
    assert ("webcam and phone have most of their power outside of the band" in caplog.text) == warned
