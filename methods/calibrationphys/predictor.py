"""Waves and rates of one's own videos: by a formula, or by the networks of a trained run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.faces.clips import Input, Signal, align, common_clock, interpolate
from datasets.faces.detect import make_detector
from datasets.faces.frontend import GAP, FrontEnd, build_map
from datasets.faces.session import CameraMap, Session
from datasets.faces.video import open_frames
from methods.calibrationphys import breathing, colour
from methods.calibrationphys.augmentation import NORMALISATIONS
from methods.calibrationphys.rates import (
    READOUTS,
    Readout,
    as_band,
    band_pass,
    out_of_band,
    peak_rates,
    signal_to_noise,
)
from methods.checkpoints import weights_below

log = logging.getLogger(__name__)
COLOUR = {
    "green": colour.green,
    "ica": colour.ica,
    "chrom": colour.chrom,
    "pos": colour.pos,
    "pbv": colour.pbv,
    "lgi": colour.lgi,
    "omit": colour.omit,
    "2sr": colour.spatial_subspace_rotation,
}
BREATH_FROM_COLOUR = {
    "bw": breathing.baseline_wander,
    "am": breathing.amplitude_modulation,
    "fm": breathing.frequency_modulation,
}
ONE_CHANNEL = ("green", *BREATH_FROM_COLOUR)
FORMULAS: dict[str, tuple[str, ...]] = {"pulse": tuple(COLOUR), "resp": ("flowmean", *BREATH_FROM_COLOUR)}


@dataclass
class Predictor:
    """Network or formula that turns maps into waves.

    Args:
        name: what it is called.
        signal: pulse or resp.
        source: rgb or flow.
        fs: columns a second that it needs.
        readout: how rates are read off its waves.
        wave: function from the camera's name, its map (C, M, N) and moments (N, C + 1, C + 1) to a wave.
    """

    name: str
    signal: Signal
    source: Input
    fs: float
    readout: Readout
    wave: Callable[[str, np.ndarray, np.ndarray | None], np.ndarray]


def formula_predictor(name: str) -> Predictor:
    """Return a method without training.

    Args:
        name: one of `FORMULAS`.

    Raises:
        ValueError: there is no such method.
    """
    if name not in FORMULAS["pulse"] + FORMULAS["resp"]:
        known = ", ".join(FORMULAS["pulse"] + FORMULAS["resp"])
        raise ValueError(f"there is no method {name}; choose from {known}, or name a trained run")
    signal: Signal = "pulse" if name in FORMULAS["pulse"] else "resp"
    if name == "flowmean":
        flow = lambda camera, values, moments: breathing.flow_mean(values[0].T[None].astype(float), 15.0)[0]  # noqa: E731
        return Predictor(name, signal, "flow", 15.0, READOUTS[signal], flow)
    formula = (COLOUR | BREATH_FROM_COLOUR)[name]

    def wave(camera: str, values: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
        assert moments is not None
        if moments.shape[-1] < 4 and name not in ONE_CHANNEL:
            raise ValueError(f"{name} needs 3 colours, the video of {camera} is grey: use {' or '.join(ONE_CHANNEL)}")
        taken = moments[:, :-1, :-1] if name == "2sr" else moments[:, :-1, -1]
        return formula(taken[None].astype(float), 30.0)[0]

    return Predictor(name, signal, "rgb", 30.0, READOUTS[signal], wave)


def described_by(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its networks: signal, input, fs, band, dims.

    Args:
        checkpoint: checkpoint of a run of a learned method.

    Raises:
        ValueError: it is the checkpoint of another method.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if "faces" not in content:
        raise ValueError(f"{checkpoint} belongs to no method that learns waves from faces")
    return content["faces"]


def network_predictor(
    name: str, checkpoint: Path, build: Callable[..., nn.Module], cameras: Mapping[str, str]
) -> Predictor:
    """Return the networks of a trained run.

    Args:
        name: what it is called.
        checkpoint: checkpoint of the run.
        build: function from channels and patches to the networks.
        cameras: camera of the run whose network is used, by the camera of the video.

    Raises:
        ValueError: the run has no such camera.
    """
    about = described_by(checkpoint)
    network: Any = build(**about["dims"])
    if unknown := [camera for camera in cameras.values() if camera not in network.cameras]:
        raise ValueError(f"the run has no network for {unknown[0]}, it has {', '.join(network.cameras)}")
    network.load_state_dict(weights_below(checkpoint, "network."))
    network.eval()
    patches, channels = about["dims"]["patches"], about["dims"]["channels"]
    normalise, source = NORMALISATIONS[about["input"]], about["input"]

    def wave(camera: str, values: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
        used = cameras[camera]
        check_shape(values, channels[used], patches)
        with torch.no_grad():
            return network(used, normalise(torch.from_numpy(values[None]))).double().numpy()[0]

    readout = replace(READOUTS[about["signal"]], band=as_band(about["band"]))
    return Predictor(name, about["signal"], source, about["fs"], readout, wave)


def check_shape(values: np.ndarray, channels: int, patches: int) -> None:
    """Raise ValueError if a map (C, M, N) is not of the shape that a network was trained on.

    Args:
        values: map.
        channels: channels that the network takes.
        patches: patches that it takes.
    """
    if values.shape[:2] != (channels, patches):
        raise ValueError(
            f"the run was trained on maps of {channels} channels x {patches} patches, this video gives "
            f"{values.shape[0]} x {values.shape[1]}" + (": it is grey" if values.shape[0] < channels else "")
        )


@dataclass
class Measurement:
    """Waves and rates of one signal.

    Args:
        signal: pulse or resp.
        method: name of the predictor.
        fs: samples a second of the waves.
        start: time of the first sample, on the cameras' clock.
        waves: band-passed, standardised wave of each camera, (N,).
        windows: start of each window in seconds, (W,).
        seconds: length of a window.
        rates: rate per minute of each window by camera, (W,).
        snr: signal-to-noise ratio of the window at its rate in dB, by camera, (W,).
        ipr: share of power outside the band by camera, (W,).
        agreement: largest difference between the cameras' rates, (W,); NaN with one camera.
        gaps: whether a window has frames missing for half a second or more, by camera, (W,).
        readout: how the rates were read.
    """

    signal: Signal
    method: str
    fs: float
    start: float
    waves: dict[str, np.ndarray]
    windows: np.ndarray
    seconds: float
    rates: dict[str, np.ndarray]
    snr: dict[str, np.ndarray]
    ipr: dict[str, np.ndarray]
    agreement: np.ndarray
    gaps: dict[str, np.ndarray]
    readout: Readout

    def good(self, camera: str) -> np.ndarray:
        """Return which windows can be trusted, (W,): SNR above 0 dB, no gap, and cameras that agree.

        They agree within 5 per minute, for respiration 2.
        """
        agrees = np.isnan(self.agreement) | (self.agreement < self.readout.agreement)
        return (self.snr[camera] > 0) & agrees & ~self.gaps[camera]


def flicker_rate(camera_map: CameraMap, rate: float, readout: Readout) -> float | None:
    """Return the rate of the light beside the face, if it has a clear one that is also the measured rate.

    Args:
        camera_map: map of a camera.
        rate: measured rate per minute.
        readout: how rates are read.

    Returns:
        Rate per minute, or None: the light shows no such rate, or there is no background.
    """
    if camera_map.background is None or not camera_map.background.any():
        return None
    clock = common_clock(camera_map.t[0], camera_map.t[-1])
    light = interpolate(camera_map.background.mean(axis=1), camera_map.t, clock)[None].astype(float)
    found = peak_rates(light, 30.0, readout)
    clear = signal_to_noise(light, 30.0, found, readout)[0] > 3
    return float(found[0]) if clear and abs(found[0] - rate) < 3 else None


def measure(
    maps: Mapping[str, CameraMap], predictor: Predictor, seconds: float, step: float = 1.0, name: str = "video"
) -> Measurement:
    """Return waves, and rates of sliding windows with their quality.

    Args:
        maps: map of each camera of one face.
        predictor: what turns maps into waves.
        seconds: length of a window.
        step: seconds between two windows.
        name: name of the recording, for messages.

    Raises:
        ValueError: the recording is shorter than a window, or the cameras do not overlap in time.
    """
    session = Session(name, name, dict(maps))
    aligned = align(session, predictor.signal, predictor.source, predictor.fs)
    length = round(seconds * predictor.fs)
    if aligned.length < length:
        have = aligned.length / predictor.fs
        raise ValueError(f"{name} has {have:.1f} s, less than one window of {seconds:g} s: choose a shorter window")
    fs, readout = predictor.fs, predictor.readout
    starts = np.arange(0, aligned.length - length + 1, max(1, round(step * fs)))
    waves, rates, snr, ipr = {}, {}, {}, {}
    for camera, values in aligned.maps.items():
        raw = predictor.wave(camera, values, aligned.moments.get(camera))
        windows = np.lib.stride_tricks.sliding_window_view(raw, length)[starts]
        rates[camera] = peak_rates(windows, fs, readout)
        snr[camera] = signal_to_noise(windows, fs, rates[camera], readout)
        ipr[camera] = out_of_band(windows, fs, readout)
        filtered = band_pass(raw - raw.mean(), fs, readout.band)
        waves[camera] = filtered / (filtered.std() + 1e-12)
    spread = np.ptp(np.stack(list(rates.values())), axis=0) if len(rates) > 1 else np.full(len(starts), np.nan)
    begin = max(m.t[0] for m in maps.values())
    times = begin + starts / fs
    gaps = {camera: across_gaps(found.t, times, seconds) for camera, found in maps.items()}
    return Measurement(
        predictor.signal, predictor.name, fs, begin, waves, starts / fs, seconds, rates, snr, ipr, spread, gaps, readout
    )


def across_gaps(t: np.ndarray, starts: np.ndarray, seconds: float) -> np.ndarray:
    """Return which windows have frames missing for half a second or more, (W,).

    Args:
        t: time stamps of the frames, (T,).
        starts: first time of each window, (W,).
        seconds: length of a window.
    """
    gap = np.flatnonzero(np.diff(t) >= GAP)
    inside = (t[gap] < starts[:, None] + seconds) & (t[gap + 1] > starts[:, None])
    return np.asarray(inside.any(axis=1))


def module_predictor(module: Any, camera: str) -> Predictor:
    """Return the networks of a trained module. Which network measures a video is logged.

    Args:
        module: a `LearnedWave`.
        camera: camera whose network is used; empty: that of the video's name, else the first one.
    """
    normalise = NORMALISATIONS[module.source]

    def wave(name: str, values: np.ndarray, moments: np.ndarray | None) -> np.ndarray:
        used = camera or (name if name in module.cameras else module.cameras[0])
        dims = module.network.dims
        check_shape(values, dims["channels"][used], dims["patches"])
        log.info("the video of camera %s is measured by the network of camera %s", name, used)
        with torch.no_grad():
            maps = normalise(torch.from_numpy(values[None]).to(module.device))
            return module.network(used, maps).double().cpu().numpy()[0]

    return Predictor(type(module).__name__, module.signal, module.source, module.fs, module.readout, wave)


def camera_of(path: Path) -> str:
    """Return the camera that a video is named after: `cam_phone.mp4` and `phone.mp4` are of the phone.

    Args:
        path: video.
    """
    return path.stem.removeprefix("cam_")


def measure_videos(
    paths: Sequence[Path], predictor: Predictor, settings: FrontEnd, detector: str, window: float
) -> Iterator[tuple[Measurement, Path]]:
    """Yield the measurement of each video; those that cannot be measured are said at the end.

    Args:
        paths: videos of faces.
        predictor: what turns maps into waves.
        settings: what is measured.
        detector: name of the face detector; not used with a fixed box.
        window: seconds of a window; 0: 10 for the pulse, 30 for respiration.

    Raises:
        ValueError: none could be measured.
    """
    seconds = window or {"pulse": 10.0, "resp": 30.0}[predictor.signal]
    faces = None if settings.box else make_detector(detector)
    failures = []
    for path in paths:
        try:
            camera_map = build_map(open_frames(path), faces, settings)
            measurement = measure({camera_of(path): camera_map}, predictor, seconds, name=str(path))
        except (ValueError, OSError) as error:
            failures.append(str(error))
            continue
        yield measurement, path
    if len(failures) == len(paths):
        raise ValueError("\n".join(failures))
    for failure in failures:
        log.warning("left out: %s", failure)
