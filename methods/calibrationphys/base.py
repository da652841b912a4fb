"""Base classes of all methods: waves of each camera in the test; optimizer, clips and losses of learned ones."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from datasets.checks import check_not_negative, check_positive
from datasets.faces.clips import FaceClips
from methods.calibrationphys.augmentation import NORMALISATIONS, change_speed, resample_columns
from methods.calibrationphys.evaluation import RateEvaluation
from methods.calibrationphys.networks import CameraNetworks
from methods.calibrationphys.rates import READOUTS, Readout, as_band, peak_rates

log = logging.getLogger(__name__)


class RateModule(LightningModule):
    """Test of a method that gives a wave for each camera.

    Metrics, with rates and errors per minute, `<camera>` being each camera: `test/mae` (mean of the cameras),
    `test/mae_fused` (all cameras' spectra together), `test/agreement` (share of windows in which the cameras differ by
    less than 5, for respiration 2), and for each camera `test/mae_<camera>`, `rmse`, `me`, `sd`, `mape` (%), `r`, `pte`
    (share of errors below 5), `loa`, `icc`, `mae_se` (standard error by a bootstrap over people), `mae_session` (one
    rate a session), `snr` (dB), `ipr` (share of power outside the band), `macc` (largest correlation with the contact
    wave).

    Args:
        network: networks of the cameras, or a placeholder.
        band: band of the rates in Hz; None: 0.66 to 3 Hz for the pulse, 0.1 to 0.5 Hz for respiration.
    """

    tasks = ("face-video",)

    def __init__(self, network: nn.Module, band: Sequence[float] | None = None) -> None:
        super().__init__()
        self.network = network
        self.given_band = None if band is None else as_band(band)
        self.signal, self.source, self.fs = "pulse", "rgb", 30.0
        self.cameras: list[str] = list(network.cameras)  # type: ignore[arg-type]
        self.evaluation: RateEvaluation | None = None

    @property
    def readout(self) -> Readout:
        """Readout of rates from waves of this signal."""
        default = READOUTS[self.signal]
        if self.given_band is None:
            return default
        return replace(default, band=self.given_band)

    @property
    def band(self) -> tuple[float, float]:
        """Band of the rates in Hz."""
        return self.readout.band

    def prepare(self, data: Any) -> None:
        """Take signal, input and rate of the data.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: the band does not fit below half the rate of the data.
        """
        self.signal, self.source, self.fs = data.signal, data.input, data.fs
        if self.band[1] >= self.fs / 2:
            raise ValueError(f"method.band={list(self.band)} does not lie below dataset.fs/2 = {self.fs / 2:g} Hz")

    @abstractmethod
    def waves(self, clips: FaceClips) -> dict[str, Tensor]:
        """Return the wave of each camera, (B, T).

        Args:
            clips: windows.
        """

    def on_test_epoch_start(self) -> None:
        """Begin a new evaluation."""
        self.evaluation = RateEvaluation(self.cameras, self.readout)

    def test_step(self, batch: FaceClips, batch_idx: int) -> None:
        """Add the windows of a session."""
        assert self.evaluation is not None
        self.evaluation.add(batch, self.waves(batch))

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        assert self.evaluation is not None
        metrics = self.evaluation.metrics()
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
        self.warn_of(metrics)

    def warn_of(self, metrics: Mapping[str, float]) -> None:
        """Log a warning if the metrics of a test show that it means nothing; formulas have no such case.

        Args:
            metrics: metrics by name, without `test/`.
        """

    def figures(self) -> dict[str, Any]:
        """Return wave, spectra, scatter and Bland-Altman plot of the test, and the error by motion level."""
        if self.evaluation is None:
            return {}
        from methods.calibrationphys.figures import evaluation_figures

        return evaluation_figures(self.evaluation, self.signal)


class LearnedWave(RateModule):
    """Networks that are trained by AdamW on a loss of clips; a subclass gives the loss.

    Metrics beside those of the test: `train/loss`, `val/loss`; `val/mae` per minute where there is a contact wave, for
    the reader: the checkpoint is chosen by `val/loss`, which needs no labels.

    Args:
        network: networks of the cameras.
        band: band of the rates in Hz; None: that of the signal.
        lr: learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        speed: smallest and largest length of a training clip before it is stretched to T, relative to T.
        noise: standard deviation of Gaussian noise on the normalised training maps.
    """

    monitor, monitor_mode = "val/loss", "min"
    least_sessions = 2  # in training and validation
    network: CameraNetworks

    def __init__(
        self,
        network: nn.Module,
        band: Sequence[float] | None = None,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        speed: Sequence[float] = (0.9, 1.2),
        noise: float = 0.0,
    ) -> None:
        super().__init__(network, band)
        check_positive("method", lr=lr)
        check_not_negative("method", weight_decay=weight_decay, noise=noise)
        if not isinstance(network, CameraNetworks):
            raise ValueError("this method trains a network for each camera: model=physnet2d or model=physnet3d")
        if len(speed) != 2 or not 0.1 <= speed[0] <= speed[1]:
            raise ValueError(f"method.speed must be two rising numbers of at least 0.1, got {list(speed)}")
        self.lr, self.weight_decay, self.noise = lr, weight_decay, noise
        self.speed = (float(speed[0]), float(speed[1]))
        self.length = 0

    def prepare(self, data: Any) -> None:
        """Take the length of clips.

        Args:
            data: DataModule after its set-up.
        """
        super().prepare(data)
        self.length = data.clip_length

    def on_fit_start(self) -> None:
        """Read the sessions of training and validation, and check them: only training needs them."""
        self.check_training(self.trainer.datamodule)  # type: ignore[attr-defined]

    def check_training(self, data: Any) -> None:
        """Read the sessions of training and validation, and check that the method can learn from them.

        Args:
            data: DataModule after its set-up.

        Raises:
            ValueError: the largest speed needs longer clips than the data yields, or a split or a batch has too few
                sessions.
        """
        data.load("train", "val")
        for split in ("train", "val"):
            if (count := len(data.sessions[split])) < self.least_sessions:
                raise ValueError(
                    f"this method contrasts {self.least_sessions} sessions of a split or more, {split} has {count}: "
                    "record more, or change dataset.split"
                )
        if data.batch_size < self.least_sessions:
            raise ValueError(
                f"this method contrasts the sessions of a batch, {self.least_sessions} or more: raise "
                f"dataset.batch_size, which is {data.batch_size}"
            )
        if round(self.speed[1] * data.clip_length) > data.train_length:
            raise ValueError(
                f"method.speed={list(self.speed)} needs clips {self.speed[1]:g} times as long as dataset.clip_length: "
                f"raise dataset.margin, which is {data.margin:g}"
            )

    def warn_of(self, metrics: Mapping[str, float]) -> None:
        """Log a warning if the waves of a camera have most of their power outside of the band.

        The losses see spectra in the band alone, so that a network may learn what two cameras share outside of it.

        Args:
            metrics: metrics by name, without `test/`.
        """
        astray = [name for name in self.cameras if metrics.get(f"ipr_{name}", 0.0) > 0.5]
        if astray:
            log.warning(
                "the waves of %s have most of their power outside of the band (test/ipr): the training has probably "
                "found motion or light in place of the %s. Another seed, or method.ipr_weight=1 where the method has "
                "it, may help",
                " and ".join(astray),
                self.signal,
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW on the parameters that are trained."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)

    @abstractmethod
    def loss(self, clips: FaceClips, factor: dict[str, Tensor]) -> Tensor | None:
        """Return the loss of clips; None: nothing can be learned from them.

        Args:
            clips: normalised clips of length T.
            factor: by camera, how many times as fast each clip is as its original, (B,).
        """

    def waves(self, clips: FaceClips) -> dict[str, Tensor]:
        """Return the wave of each camera, (B, T), of raw clips."""
        normalise = NORMALISATIONS[self.source]
        return {name: self.network(name, normalise(maps)) for name, maps in clips.maps.items() if name in self.cameras}

    def training_step(self, batch: FaceClips, batch_idx: int) -> Tensor | None:
        """Return the loss of clips at random places with random speed; None: Lightning leaves the step out."""
        clips, factor = self.augmented(batch)
        loss = self.loss(clips, factor)
        if loss is not None:
            self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)
        return loss

    def augmented(self, batch: FaceClips) -> tuple[FaceClips, dict[str, Tensor]]:
        """Return normalised clips of length T with the same change of speed for all cameras, and their speeds.

        Args:
            batch: raw clips of the training length.
        """
        maps = {name: batch.maps[name] for name in self.cameras if name in batch.maps}
        cut, places = change_speed(maps, self.length, self.speed, self.speed_mode)
        (start, span) = next(iter(places.values()))
        wave = change_speed_of(batch.wave, start, span, self.length)
        normalise = NORMALISATIONS[self.source]
        ready = {name: self.noisy(normalise(values)) for name, values in cut.items()}
        factor = {name: (place[1] - 1) / (self.length - 1) for name, place in places.items()}
        clips = replace(batch, maps=ready, moments={}, wave=wave)
        return clips, factor

    @property
    def speed_mode(self) -> Literal["shared", "independent"]:
        """Mode of `change_speed`: one change for all cameras of a session, or one for each."""
        return "shared"

    def noisy(self, maps: Tensor) -> Tensor:
        """Return maps with noise, if there is to be any."""
        return maps + self.noise * torch.randn_like(maps) if self.noise else maps

    def validation_step(self, batch: FaceClips, batch_idx: int) -> None:
        """Log the loss of clips as they are, and the error where there is a contact wave."""
        normalise = NORMALISATIONS[self.source]
        maps = {name: normalise(batch.maps[name]) for name in self.cameras if name in batch.maps}
        clips = replace(batch, maps=maps, moments={})
        loss = self.loss(clips, {name: torch.ones(len(batch), device=self.device) for name in maps})
        if loss is not None:
            self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)
        known = torch.isfinite(batch.wave).all(dim=1)
        if known.any():
            self.log("val/mae", self._error(clips, known), batch_size=int(known.sum()), sync_dist=True)

    def _error(self, clips: FaceClips, known: Tensor) -> float:
        truth = peak_rates(clips.wave[known].cpu().double().numpy(), clips.fs, self.readout)
        errors = []
        for name, maps in clips.maps.items():
            here = known & clips.present[name]
            if here.any():
                waves = self.network(name, maps[here]).detach().cpu().double().numpy()
                rates = peak_rates(waves, clips.fs, self.readout)
                errors.append(np.abs(rates - truth[here[known].cpu().numpy()]).mean())
        return float(np.mean(errors))

    def predict_files(
        self,
        paths: list[Path],
        out: Path,
        data: Any,
        camera: str = "",
        detector: str = "",
        box: Sequence[int] | None = None,
        window: float = 0.0,
    ) -> list[Path]:
        """Measure videos: write rates of windows with their quality, waves, and a figure without a face for each.

        Args:
            paths: videos of faces.
            out: folder of the files to write.
            data: DataModule of the run, or `described_data`.
            camera: camera whose network is used; empty: that of the video's name, else the first one.
            detector: ultralight or blazeface; empty: that of the run.
            box: fixed face box x, y, width, height in pixels; None: that of the run, which may have none.
            window: seconds of a window; 0: 10 for the pulse, 30 for respiration.

        Raises:
            ValueError: there is no such camera, or no video could be measured.
        """
        from datasets.faces.frontend import FrontEnd
        from datasets.prediction import unique_names
        from methods.calibrationphys.predictor import measure_videos, module_predictor
        from methods.calibrationphys.report import write_measurement

        if camera and camera not in self.cameras:
            raise ValueError(f"camera={camera} is none of {', '.join(self.cameras)}")
        predictor = module_predictor(self, camera)
        side, fixed = round(self.network.dims["patches"] ** 0.5), box or getattr(data, "box", None)
        settings = FrontEnd(grid=side, flow=self.source == "flow", box=tuple(fixed) if fixed else None)
        names, written = unique_names(paths), list[Path]()
        detector = detector or getattr(data, "detector", "ultralight")
        for measurement, path in measure_videos(list(names), predictor, settings, detector, window):
            written += write_measurement(measurement, out, names[path])
        return written

    @staticmethod
    def described_data(checkpoint: Mapping[str, Any], dataset: Mapping[str, Any]) -> Any:
        """Return what `prepare` and `predict_files` need of the data; None: the checkpoint does not say.

        Args:
            checkpoint: content of a checkpoint.
            dataset: config of the data set of its run.
        """
        about = checkpoint.get("faces")
        own = {"detector": dataset.get("detector", "ultralight"), "box": dataset.get("box")}
        return about and SimpleNamespace(**about, clip_length=about["length"], **own)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to use the networks without the data."""
        checkpoint["faces"] = {
            "signal": self.signal,
            "input": self.source,
            "fs": self.fs,
            "band": list(self.band),
            "length": self.length,
            "dims": self.network.dims,
        }


def change_speed_of(wave: Tensor, start: Tensor, span: Tensor, length: int) -> Tensor:
    """Return contact waves (B, T) with the change of speed that the maps had.

    Args:
        wave: contact waves, (B, L).
        start: first column of each clip, (B,).
        span: columns of each clip, (B,).
        length: columns T of a clip.
    """
    return resample_columns(wave, start.to(wave.device), span.to(wave.device), length)
