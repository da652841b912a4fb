"""CalibrationPhys: networks of several cameras that are trained to agree on the spectrum of a wave, without labels."""

from __future__ import annotations

import logging
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_not_negative, check_positive
from datasets.faces.clips import FaceClips
from methods.calibrationphys.base import LearnedWave
from methods.calibrationphys.losses import SIMILARITIES, info_nce
from methods.calibrationphys.pretrained import load_camera
from methods.calibrationphys.spectrum import irrelevant_power_ratio, norm_psd

log = logging.getLogger(__name__)


class CalibrationPhys(LearnedWave):
    """InfoNCE over band-limited spectra of synchronous cameras (paper, section III), averaged over pairs of cameras.

    Args:
        network: networks of the cameras.
        temperature: temperature tau of the contrast.
        similarity: similarity of two spectra, `neg_mse` (the paper's), `neg_sse`, `cosine`, `pearson`.
        negatives: `cross+intra`, other sessions seen by both cameras; `cross`, by the other camera only.
        positive_in_denominator: keep the positive in the denominator of the loss.
        ipr_weight: weight of the share of power outside the band, which the spectra do not see.
        shared_speed: cameras share the change of speed of a clip; false: each has its own, a control.
        shuffle_pairs: pair a session with another one's second camera, a control that must fail.
        pretrained: checkpoint of a run whose network starts the camera `pretrained_camera`; None: none.
        pretrained_mode: `none`: all networks start at random; `init`: that camera's network starts from the checkpoint,
            and all are trained; `frozen`: it is a fixed reference, and the others are trained.
        pretrained_camera: camera that takes the weights; None: the first one.
        source_camera: camera of the checkpoint whose weights are taken; None: of the same name, else its first one.
        **training: arguments of `LearnedWave`: band, lr, weight_decay, speed, noise.
    """

    def __init__(
        self,
        network: nn.Module,
        temperature: float = 0.1,
        similarity: Literal["neg_mse", "neg_sse", "cosine", "pearson"] = "neg_mse",
        negatives: Literal["cross", "cross+intra"] = "cross+intra",
        positive_in_denominator: bool = True,
        ipr_weight: float = 0.0,
        shared_speed: bool = True,
        shuffle_pairs: bool = False,
        pretrained: Path | str | None = None,
        pretrained_mode: Literal["none", "init", "frozen"] = "none",
        pretrained_camera: str | None = None,
        source_camera: str | None = None,
        **training: Any,
    ) -> None:
        super().__init__(network, **training)
        check_positive("method", temperature=temperature)
        check_not_negative("method", ipr_weight=ipr_weight)
        check_choice("method.similarity", similarity, tuple(SIMILARITIES))
        check_choice("method.negatives", negatives, ("cross", "cross+intra"))
        check_choice("method.pretrained_mode", pretrained_mode, ("none", "init", "frozen"))
        if len(self.cameras) < 2:
            raise ValueError(
                f"calibration needs at least two cameras, dataset.cameras={self.cameras}; methods for one camera: "
                "calibrationphys/sinc, calibrationphys/contrastphys, calibrationphys/gideon2021"
            )
        self.temperature, self.similarity, self.negatives = temperature, SIMILARITIES[similarity], negatives
        self.positive_in_denominator, self.ipr_weight = positive_in_denominator, ipr_weight
        self.shared_speed, self.shuffle_pairs = shared_speed, shuffle_pairs
        self.frozen: str | None = None
        if pretrained_mode != "none":
            self._take_over(pretrained, pretrained_mode, pretrained_camera, source_camera)

    def _take_over(self, checkpoint: Path | str | None, mode: str, camera: str | None, source: str | None) -> None:
        """Start a camera's network from a checkpoint, and freeze it where asked."""
        if checkpoint is None:
            raise ValueError(f"method.pretrained_mode={mode} needs method.pretrained=<checkpoint of a run>")
        camera = camera or self.cameras[0]
        if camera not in self.cameras:
            raise ValueError(f"method.pretrained_camera={camera} is none of {', '.join(self.cameras)}")
        if self.network.shared:
            raise ValueError("method.pretrained_mode needs a network for each camera: model.shared=false")
        load_camera(self.network.of(camera), Path(checkpoint), source, camera)
        if mode == "frozen":
            self.frozen = camera
            self.network.of(camera).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> CalibrationPhys:
        """Set training mode; the frozen network stays in evaluation mode, so that its statistics stay too."""
        super().train(mode)
        if self.frozen is not None:
            self.network.of(self.frozen).eval()
        return self

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of the frozen network."""
        if self.frozen is not None:
            self.network.of(self.frozen).eval()

    @property
    def speed_mode(self) -> Literal["shared", "independent"]:
        """Mode of `change_speed`: one change for all cameras of a session, or one for each."""
        return "shared" if self.shared_speed else "independent"

    def check_training(self, data: Any) -> None:
        """Check that there are sessions to contrast.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: no two sessions of a split have the same pair of cameras, or `LearnedWave` refuses the data.
        """
        super().check_training(data)
        for split in ("train", "val"):
            filmed = [set(session.maps) for session in data.sessions[split]]
            if not any(sum({a, b} <= names for names in filmed) > 1 for a, b in combinations(self.cameras, 2)):
                raise ValueError(
                    f"no two {split} sessions have the same pair of cameras ({', '.join(self.cameras)}): choose "
                    "cameras that filmed together by dataset.cameras"
                )

    def loss(self, clips: FaceClips, factor: dict[str, Tensor]) -> Tensor | None:
        """Return the contrast, averaged over all pairs of cameras that at least two sessions have; None: there is none.

        A network sees the sessions of its camera alone, so that absent ones do not enter its statistics.

        Args:
            clips: normalised clips.
            factor: not used.
        """
        here = {name: present for name, present in clips.present.items() if name in clips.maps and present.any()}
        waves = {name: self.network(name, clips.maps[name][present]) for name, present in here.items()}
        spectra = {name: norm_psd(wave, clips.fs, self.band) for name, wave in waves.items()}
        if self.shuffle_pairs:
            spectra = {name: x.roll(number, dims=0) for number, (name, x) in enumerate(spectra.items())}
        losses = []
        for a, b in combinations(spectra, 2):
            both = here[a] & here[b]
            if both.sum() < 2:
                continue
            losses.append(
                info_nce(
                    spectra[a][both[here[a]]],
                    spectra[b][both[here[b]]],
                    self.temperature,
                    self.similarity,
                    self.negatives,
                    self.positive_in_denominator,
                )
            )
        if not losses:
            return None
        loss = torch.stack(losses).mean()
        if self.ipr_weight:
            outside = [irrelevant_power_ratio(wave, clips.fs, self.band).mean() for wave in waves.values()]
            loss = loss + self.ipr_weight * torch.stack(outside).mean()
        return loss
