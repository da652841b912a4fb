"""Test of trained networks on other data: other cameras of the same kind, other corpora, real clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from datasets.faces.clips import FaceClips
from methods.calibrationphys.augmentation import NORMALISATIONS
from methods.calibrationphys.base import RateModule
from methods.calibrationphys.networks import CameraNetworks
from methods.calibrationphys.predictor import described_by
from methods.calibrationphys.pretrained import load_camera


class Transfer(RateModule):
    """Networks of another run, tested as they are. Metrics are those of `RateModule`.

    Args:
        network: networks of the cameras of this data.
        checkpoint: checkpoint of the run whose networks are tested; a camera takes that of its name, else the first.
            None is refused: `needs` gives it, or the user.
        band: band of the rates in Hz; None: that of the signal.
    """

    def __init__(self, network: nn.Module, checkpoint: Path | str | None, band: Sequence[float] | None = None) -> None:
        super().__init__(network, band)
        if checkpoint is None:
            raise ValueError("which networks? method.checkpoint=<checkpoint of a run>")
        if not isinstance(network, CameraNetworks):
            raise ValueError("this method tests a network for each camera: model=physnet2d or model=physnet3d")
        self.about = described_by(Path(checkpoint))
        for camera in network.cameras:
            load_camera(network.of(camera), Path(checkpoint), None, camera)

    def prepare(self, data: Any) -> None:
        """Check that the data is of the kind that the networks were trained on.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: signal, input, rate or number of patches differ.
        """
        super().prepare(data)
        expected = {name: self.about[name] for name in ("signal", "input", "fs")}
        expected["patches"] = self.about["dims"]["patches"]
        found = {"signal": data.signal, "input": data.input, "fs": data.fs, "patches": data.dims["patches"]}
        if wrong := [name for name in expected if expected[name] != found[name]]:
            raise ValueError(
                f"the networks were trained with {wrong[0]} {expected[wrong[0]]}, the data has {found[wrong[0]]}"
            )

    def waves(self, clips: FaceClips) -> dict[str, Tensor]:
        """Return the wave of each camera, (B, T)."""
        normalise = NORMALISATIONS[self.source]
        return {name: self.network(name, normalise(maps)) for name, maps in clips.maps.items() if name in self.cameras}
