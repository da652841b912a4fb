"""Self-supervised methods that need one camera: RemotePPG, Contrast-Phys, SiNC. Each camera's network learns alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_positive
from datasets.faces.clips import FaceClips
from methods.calibrationphys.augmentation import resample_columns
from methods.calibrationphys.base import LearnedWave
from methods.calibrationphys.losses import contrast_phys, sinc_losses, triplet_psd
from methods.calibrationphys.rates import as_band
from methods.calibrationphys.spectrum import norm_psd


class SingleCamera(LearnedWave):
    """Loss of each camera alone, averaged over the cameras.

    Args:
        network: networks of the cameras.
        loss_band: band in Hz of the spectra in the loss; None: that of the rates.
        **training: arguments of `LearnedWave`.
    """

    def __init__(self, network: nn.Module, loss_band: Sequence[float] | None = None, **training: Any) -> None:
        super().__init__(network, **training)
        self.given_loss_band = None if loss_band is None else as_band(loss_band, "loss_band")

    @property
    def loss_band(self) -> tuple[float, float]:
        """Band of the spectra in the loss, below half the rate of the data."""
        low, high = self.given_loss_band or self.band
        return low, min(high, 0.49 * self.fs)

    def loss(self, clips: FaceClips, factor: dict[str, Tensor]) -> Tensor | None:
        """Return the mean of the losses of cameras that filmed at least two of the sessions; None: there is none.

        Args:
            clips: normalised clips.
            factor: by camera, speed of each clip, (B,).
        """
        losses = [
            self.camera_loss(name, maps[clips.present[name]], factor[name][clips.present[name]], clips.fs)
            for name, maps in clips.maps.items()
            if clips.present[name].sum() >= 2
        ]
        return torch.stack(losses).mean() if losses else None

    @abstractmethod
    def camera_loss(self, camera: str, maps: Tensor, factor: Tensor, fs: float) -> Tensor:
        """Return the loss of one camera.

        Args:
            camera: name of the camera.
            maps: normalised clips, (B, C, M, T).
            factor: speed of each clip, (B,).
            fs: columns a second.
        """


def random_views(waves: Tensor, length: int, count: int) -> Tensor:
    """Return crops of waves at random places, the same in all waves of a view, (count, ..., length).

    Args:
        waves: waves, (..., T).
        length: samples of a crop.
        count: number of crops.
    """
    starts = torch.randint(0, waves.shape[-1] - length + 1, (count,)).tolist()
    return torch.stack([waves[..., start : start + length] for start in starts])


class Gideon2021(SingleCamera):
    """RemotePPG (Gideon and Stent 2021): a clip made faster is the negative, its stretched wave the positive.

    Args:
        network: networks of the cameras.
        factors: smallest and largest factor by which the negative is faster.
        views: number of random views of half a clip in each branch.
        **training: arguments of `SingleCamera`.
    """

    def __init__(
        self, network: nn.Module, factors: Sequence[float] = (1.25, 1.5), views: int = 4, **training: Any
    ) -> None:
        super().__init__(network, **training)
        check_positive("method", views=views)
        if len(factors) != 2 or not 1 < factors[0] <= factors[1] <= 2:
            raise ValueError(f"method.factors must be two rising numbers in (1, 2], got {list(factors)}")
        self.factors, self.views = (float(factors[0]), float(factors[1])), views

    def camera_loss(self, camera: str, maps: Tensor, factor: Tensor, fs: float) -> Tensor:
        """Return the triplet loss of one camera, with one factor for the batch."""
        length = maps.shape[-1]
        low, high = self.factors
        shorter = round(length / (low + (high - low) * float(torch.rand(()))))
        everything = torch.full((len(maps),), float(length), device=maps.device)
        start = torch.zeros(len(maps), device=maps.device)
        fast = resample_columns(maps, start, everything, shorter)
        fast = nn.functional.pad(fast, (0, length - shorter))
        anchor = self.network(camera, maps)
        negative = self.network(camera, fast)[:, :shorter]
        positive = resample_columns(negative, start, torch.full_like(everything, shorter), length)
        half = min(length // 2, shorter)
        branches = [
            norm_psd(random_views(wave, half, self.views), fs, self.loss_band) for wave in (anchor, positive, negative)
        ]
        return triplet_psd(*branches)


class ContrastPhys(SingleCamera):
    """Contrast-Phys (Sun and Li 2022): spectra of places and times of a video are alike, those of two videos are not.

    Args:
        network: networks of the cameras.
        rows: number of groups of patches whose waves are compared, beside their mean; at most as many as the features
            of the network distinguish.
        crops: number of random crops of half a clip of each wave.
        **training: arguments of `SingleCamera`.
    """

    def __init__(self, network: nn.Module, rows: int = 4, crops: int = 4, **training: Any) -> None:
        super().__init__(network, **training)
        check_positive("method", rows=rows, crops=crops)
        if rows > self.network.feature_rows:
            raise ValueError(
                f"method.rows={rows}: on {self.network.dims['patches']} patches this network's features distinguish "
                f"{self.network.feature_rows} place(s), further rows would be copies; lower method.rows, or take more "
                "patches (dataset.grid, of generated sessions dataset.scene.grid)"
            )
        self.rows, self.crops = rows, crops

    def camera_loss(self, camera: str, maps: Tensor, factor: Tensor, fs: float) -> Tensor:
        """Return the contrast of one camera."""
        waves = self.network.of(camera).rows(maps, self.rows)  # type: ignore[operator]
        waves = torch.cat([waves, waves.mean(dim=1, keepdim=True)], dim=1)
        views = random_views(waves, waves.shape[-1] // 2, self.crops)  # (crops, B, rows + 1, T / 2)
        spectra = norm_psd(views, fs, self.loss_band).permute(1, 0, 2, 3).flatten(1, 2)
        return contrast_phys(spectra)


class SiNC(SingleCamera):
    """SiNC (Speth et al. 2023): power in the band, in one peak, and peaks that differ over the batch.

    The band follows the speed of a clip. Validation leaves out the variance, as the published code does.

    Args:
        network: networks of the cameras.
        nfft: length of the transform.
        weights: weights of bandwidth, sparsity and variance.
        **training: arguments of `SingleCamera`.
    """

    def __init__(
        self, network: nn.Module, nfft: int = 5400, weights: Sequence[float] = (1.0, 1.0, 1.0), **training: Any
    ) -> None:
        super().__init__(network, **training)
        check_positive("method", nfft=nfft)
        if len(weights) != 3 or min(weights) < 0:
            raise ValueError(f"method.weights must be three weights that are not negative, got {list(weights)}")
        self.nfft, self.weights = nfft, tuple(weights)

    def camera_loss(self, camera: str, maps: Tensor, factor: Tensor, fs: float) -> Tensor:
        """Return the weighted sum of the three losses of one camera."""
        waves = self.network(camera, maps)
        low, high = self.loss_band
        width = 0.1 if self.signal == "pulse" else 0.02
        parts = sinc_losses(waves, fs, low * factor, high * factor, self.nfft, width)
        bandwidth, sparsity, variance = self.weights
        loss = bandwidth * parts["bandwidth"] + sparsity * parts["sparsity"]
        return loss + variance * parts["variance"] if self.training else loss
