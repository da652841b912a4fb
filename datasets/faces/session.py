"""Sessions: what several cameras saw of one face at the same time, and what contact sensors measured.

On disk a session is a folder: `cam_<name>.npz` {rgb (T, M, C), flow (T, M), t (T,), moment (T, C + 1, C + 1)} for
each camera, `truth.npz` {t, ppg, resp, hr, rr} where there is a reference, and `meta.yaml`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from datasets.download import CorruptData
from datasets.files import atomic_write

WAVES = ("ppg", "resp")  # contact waves by signal: pulse, respiration
RATES = ("hr", "rr")  # rates that a device showed, per minute
MIN_FPS = 15.0


@dataclass
class CameraMap:
    """Spatio-temporal map of a face box from one camera.

    Args:
        rgb: mean colour of each patch in grey levels, (T, M, C); C = 3, or 1 for infrared. Patches are row by row.
        flow: mean vertical optical flow of each patch since the frame before, in pixels of a crop of 128, (T, M).
        t: time stamps in seconds, strictly rising, (T,).
        moment: mean of the outer products of (colour, 1) over skin pixels, (T, C + 1, C + 1): second moments of the
            colours, and in the last column their mean; None: taken from the patches.
        background: mean colour of the picture beside the face, (T, C); None: not measured.
    """

    rgb: np.ndarray
    flow: np.ndarray
    t: np.ndarray
    moment: np.ndarray | None = None
    background: np.ndarray | None = None

    @property
    def fps(self) -> float:
        """Frames per second, from the time stamps."""
        return (len(self.t) - 1) / (self.t[-1] - self.t[0])

    def moments(self) -> np.ndarray:
        """Return the moments of the colours, (T, C + 1, C + 1)."""
        if self.moment is not None:
            return self.moment
        return colour_moments(self.rgb)


def colour_moments(pixels: np.ndarray) -> np.ndarray:
    """Return the mean of the outer products of (colour, 1), (..., C + 1, C + 1).

    Args:
        pixels: colours, (..., N, C).
    """
    extended = np.concatenate([pixels, np.ones((*pixels.shape[:-1], 1), pixels.dtype)], axis=-1)
    return extended.swapaxes(-1, -2) @ extended / pixels.shape[-2]


@dataclass
class Truth:
    """Measurements of contact sensors, on one clock.

    Args:
        t: seconds on the clock of the cameras, (N,).
        waves: contact waves by name, `ppg` and `resp`, (N,) each; those that were not measured are absent.
        rates: rates per minute by name, `hr` and `rr`, (N,) each.
    """

    t: np.ndarray
    waves: dict[str, np.ndarray] = field(default_factory=dict)
    rates: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Session:
    """One face, filmed by one or several cameras at the same time.

    Args:
        name: name of the session, unique in a data set.
        subject: person; splits keep the sessions of a person together.
        cameras: maps by camera.
        truth: contact measurements, or None.
        meta: anything else, such as the motion level and the seed of a synthetic session.
    """

    name: str
    subject: str
    cameras: dict[str, CameraMap]
    truth: Truth | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def check_map(camera_map: CameraMap, where: str) -> None:
    """Check the shapes and time stamps of a map.

    Args:
        camera_map: map to check.
        where: session and camera, for the message.

    Raises:
        ValueError: shapes differ, there are fewer than two frames, values are not finite, time runs backwards, or there
            are fewer than 15 frames a second.
    """
    t, rgb, flow = camera_map.t, camera_map.rgb, camera_map.flow
    if rgb.ndim != 3 or flow.shape != rgb.shape[:2] or t.shape != rgb.shape[:1]:
        raise ValueError(f"{where}: rgb {rgb.shape}, flow {flow.shape} and t {t.shape} do not fit together")
    if len(t) < 2:
        raise ValueError(f"{where}: {len(t)} frame(s); a map needs at least two")
    if not (np.isfinite(rgb).all() and np.isfinite(flow).all() and np.isfinite(t).all()):
        raise ValueError(f"{where}: the map has values that are not finite")
    check_clock(t, where)
    if camera_map.fps < MIN_FPS * 0.95:
        raise ValueError(f"{where}: {camera_map.fps:.1f} frames a second; at least {MIN_FPS:g} are needed")


def check_clock(t: np.ndarray, where: str) -> None:
    """Raise ValueError if time stamps do not rise strictly.

    Args:
        t: time stamps in seconds, (T,).
        where: session and camera, or file, for the message.
    """
    steps = np.diff(t)
    if not (steps > 0).all():
        at = int(np.argmin(steps > 0))
        raise ValueError(
            f"{where}: the clock runs backwards or stands still after frame {at}: {t[at]:.4f} s, then {t[at + 1]:.4f} s"
        )


def save_session(session: Session, folder: Path) -> None:
    """Write a session into its folder; `meta.yaml` comes last and makes it count as complete.

    Args:
        session: session to write.
        folder: folder of the session, created if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, camera_map in session.cameras.items():
        save_map(camera_map, folder / f"cam_{name}.npz")
    if session.truth is not None:
        save_truth(session.truth, folder / "truth.npz")
    meta = {"session": session.name, "subject": session.subject, "cameras": list(session.cameras), **session.meta}
    with atomic_write(folder / "meta.yaml") as path:
        path.write_text(yaml.safe_dump(meta, sort_keys=False))


def save_map(camera_map: CameraMap, path: Path) -> None:
    """Write a map as npz.

    Args:
        camera_map: map to write.
        path: file of the map; its folder must exist.
    """
    arrays = {"rgb": camera_map.rgb.astype(np.float32), "flow": camera_map.flow.astype(np.float32), "t": camera_map.t}
    if camera_map.moment is not None:
        arrays["moment"] = camera_map.moment.astype(np.float32)
    if camera_map.background is not None:
        arrays["background"] = camera_map.background.astype(np.float32)
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def save_truth(truth: Truth, path: Path) -> None:
    """Write contact measurements as npz.

    Args:
        truth: measurements to write.
        path: file; its folder must exist.
    """
    with atomic_write(path) as temporary:
        np.savez(temporary, t=truth.t, **truth.waves, **truth.rates)  # type: ignore[arg-type]


def load_map(path: Path) -> CameraMap:
    """Read and check a map.

    Args:
        path: file that `save_map` wrote.

    Raises:
        CorruptData: the file is damaged or lacks an array.
        ValueError: the map does not pass `check_map`.
    """
    arrays = _read(path)
    if missing := {"rgb", "flow", "t"} - arrays.keys():
        raise CorruptData(f"{path} lacks {', '.join(sorted(missing))}")
    camera_map = CameraMap(
        arrays["rgb"], arrays["flow"], arrays["t"].astype(np.float64), arrays.get("moment"), arrays.get("background")
    )
    check_map(camera_map, str(path))
    return camera_map


def load_truth(path: Path) -> Truth:
    """Read contact measurements.

    Args:
        path: file that `save_truth` wrote.

    Raises:
        CorruptData: the file is damaged or has no time stamps.
    """
    arrays = _read(path)
    if "t" not in arrays:
        raise CorruptData(f"{path} lacks t")
    return Truth(
        arrays["t"].astype(np.float64),
        {name: arrays[name] for name in WAVES if name in arrays},
        {name: arrays[name] for name in RATES if name in arrays},
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CorruptData(f"{path} cannot be read ({error}); remove it to build it again") from error


def load_session(folder: Path, cameras: Iterable[str] | None = None) -> Session:
    """Read a session.

    Args:
        folder: folder of the session.
        cameras: cameras to read; those that the session lacks are left out. None: all.

    Raises:
        CorruptData: a file is damaged.
    """
    meta = yaml.safe_load((folder / "meta.yaml").read_text()) or {}
    files = {path.stem.removeprefix("cam_"): path for path in sorted(folder.glob("cam_*.npz"))}
    wanted = list(files) if cameras is None else [name for name in cameras if name in files]
    truth = folder / "truth.npz"
    return Session(
        str(meta.pop("session", folder.name)),
        str(meta.pop("subject", folder.name)),
        {name: load_map(files[name]) for name in wanted},
        load_truth(truth) if truth.exists() else None,
        {key: value for key, value in meta.items() if key != "cameras"},
    )
