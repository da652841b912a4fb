"""Folder layouts and reference files of public corpora.

Each function takes the corpus's folder and returns its recordings, in the layout in which it is given out.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from datasets.download import CorruptData
from datasets.faces.session import Truth

log = logging.getLogger(__name__)
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@dataclass
class Recording:
    """Recording of one camera.

    Args:
        session: name of the session; recordings with the same name are of the same time.
        subject: person.
        camera: name of the camera.
        path: video file or folder of images.
        times: function that returns the time stamps of the frames in seconds; None: those of the recording, or `fps`.
        truth: function that returns the contact measurements; None: there are none.
        fps: frames a second of images without time stamps.
    """

    session: str
    subject: str
    camera: str
    path: Path
    times: Callable[[], np.ndarray] | None = None
    truth: Callable[[], Truth] | None = None
    fps: float = 30.0


def _numbers(values: list[str], path: Path) -> np.ndarray:
    try:
        return np.array([float(value) for value in values])
    except ValueError as error:
        raise CorruptData(f"{path} has a value that is no number: {error}") from error


def _rows(path: Path) -> list[list[str]]:
    """Return the rows of a csv file that are not blank. Raises CorruptData if there is none."""
    with open(path, newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise CorruptData(f"{path} is empty")
    return rows


def _column(path: Path, name: str | int) -> np.ndarray:
    """Return a column of a csv file, by its name in the first line or by its number.

    Args:
        path: csv file.
        name: name of the column, case ignored, or its number; a first line that is no number is skipped.

    Raises:
        CorruptData: there is no such column, a row lacks it, or it has no numbers.
    """
    rows = _rows(path)
    if isinstance(name, str):
        header = [cell.strip().lower() for cell in rows[0]]
        if name.lower() not in header:
            raise CorruptData(f"{path} has no column {name}; it has {', '.join(rows[0])}")
        number, start = header.index(name.lower()), 1
    else:
        number, start = name, 0 if re.fullmatch(r"[-+\d.eE]+", rows[0][name].strip()) else 1
    if short := [k for k, row in enumerate(rows[start:], start + 1) if len(row) <= number]:
        raise CorruptData(f"{path} lacks a value in row {short[0]}, column {number + 1}")
    if len(rows) == start:
        raise CorruptData(f"{path} has no values")
    return _numbers([row[number] for row in rows[start:]], path)


def ubfc_rppg(root: Path) -> list[Recording]:
    """Return the recordings of UBFC-rPPG, DATASET_2: `subject<k>/vid.avi`, `ground_truth.txt`."""

    def truth(path: Path) -> Truth:
        lines = [_numbers(line.split(), path) for line in path.read_text().splitlines() if line.strip()]
        if len(lines) < 3 or len({len(line) for line in lines[:3]}) > 1:
            raise CorruptData(f"{path} must have three lines of the same length: wave, heart rate, time")
        order = np.concatenate([[True], np.diff(lines[2]) > 0])  # some time stamps occur twice
        return Truth(lines[2][order], {"ppg": lines[0][order]}, {"hr": lines[1][order]})

    folders = _numbered(root, "subject*") or _numbered(root / "DATASET_2", "subject*")
    return [
        Recording(f.name, f.name, "webcam", f / "vid.avi", truth=partial(truth, f / "ground_truth.txt"))
        for f in folders
    ]


def pure(root: Path) -> list[Recording]:
    """Return the recordings of PURE: `<ss>-<tt>/<ss>-<tt>/Image*.png`, `<ss>-<tt>.json`."""
    found = []
    for folder in sorted(p for p in root.glob("[0-9][0-9]-[0-9][0-9]") if p.is_dir()):
        name = folder.name
        images = folder / name if (folder / name).is_dir() else folder
        reference = next((p for p in (folder / f"{name}.json", root / f"{name}.json") if p.exists()), None)
        if reference is None:
            log.warning("%s.json is missing: %s is taken at 30 frames a second, without a contact wave", name, folder)
            found.append(Recording(name, name[:2], "camera", images))
            continue

        def times(path: Path = reference) -> np.ndarray:
            content = _pure_content(path)
            return _nanoseconds([entry["Timestamp"] for entry in content["/Image"]], content)

        def truth(path: Path = reference) -> Truth:
            content = _pure_content(path)
            package = content["/FullPackage"]
            t = _nanoseconds([entry["Timestamp"] for entry in package], content)
            wave = np.array([float(entry["Value"]["waveform"]) for entry in package])
            rate = np.array([float(entry["Value"].get("pulseRate", np.nan)) for entry in package])
            order = np.concatenate([[True], np.diff(t) > 0])
            return Truth(t[order], {"ppg": wave[order]}, {"hr": rate[order]})

        found.append(Recording(name, name[:2], "camera", images, times, truth))
    return found


def _pure_content(path: Path) -> dict:
    content = json.loads(path.read_text())
    if empty := [name for name in ("/Image", "/FullPackage") if not content.get(name)]:
        raise CorruptData(f"{path} has no entries in {empty[0]}")
    return content


def _nanoseconds(stamps: list[int], content: dict) -> np.ndarray:
    """Return seconds since the first image."""
    return (np.array(stamps, np.int64) - int(content["/Image"][0]["Timestamp"])) / 1e9


def cohface(root: Path) -> list[Recording]:
    """Return the recordings of COHFACE: `<subject>/<0-3>/data.avi`, `data.hdf5` with pulse, respiration, time."""

    def truth(path: Path) -> Truth:
        try:
            import h5py
        except ImportError as error:
            raise ImportError("COHFACE needs h5py: pip install '.[faces]'") from error
        with h5py.File(path, "r") as file:
            pulse, breath, t = (np.asarray(file[name], float) for name in ("pulse", "respiration", "time"))
        if len({len(pulse), len(breath), len(t)}) > 1 or not len(t):
            raise CorruptData(f"{path}: pulse, respiration and time have different lengths, or none")
        return Truth(t - t[0], {"ppg": pulse, "resp": breath})

    folders = [f for subject in _numbered(root, "[0-9]*") for f in _numbered(subject, "[0-3]")]
    return [
        Recording(
            f"{f.parent.name}_{f.name}",
            f.parent.name,
            "webcam",
            f / "data.avi",
            truth=partial(truth, f / "data.hdf5"),
        )
        for f in folders
    ]


def mcd_rppg(root: Path) -> list[Recording]:
    """Return the recordings of MCD-rPPG: `video/<id>_<camera>_<before|after>.avi`, `ppg_sync` and `meta`.

    A line of `ppg_sync` begins with a sample of the contact wave, one for each frame. A line of `meta` ends with date
    and time of a frame; there are some more than frames. Without `meta` the video's own clock counts.
    """

    def lines(path: Path) -> list[list[str]]:
        return [line.split() for line in path.read_text().splitlines() if line.strip()]

    def frame_times(path: Path) -> np.ndarray:
        try:
            stamps = [datetime.fromisoformat(" ".join(row[-2:])) for row in lines(path)]
        except ValueError as error:
            raise CorruptData(f"{path}: a line does not end with date and time of day: {error}") from error
        if not stamps:
            raise CorruptData(f"{path} is empty")
        # the cameras have one clock
        return spread_repeats(np.array([(stamp - datetime(2020, 1, 1)).total_seconds() for stamp in stamps]))

    def truth_of(path: Path, meta: Path, video: Path) -> Truth:
        wave = _numbers([row[0] for row in lines(path)], path)
        t = frame_times(meta) if meta.exists() else own_clock(video)
        count = min(len(t), len(wave))
        return Truth(t[:count], {"ppg": wave[:count]})

    found = []
    for video in sorted((root / "video").glob("*.avi")):
        match = re.fullmatch(r"(.+?)_(.+)_(before|after)", video.stem)
        reference, meta = (root / name / f"{video.stem}.txt" for name in ("ppg_sync", "meta"))
        if match is None:
            raise CorruptData(f"{video} is not named <id>_<camera>_<before|after>.avi")
        subject, camera, phase = match.groups()
        times = partial(frame_times, meta) if meta.exists() else None
        truth = partial(truth_of, reference, meta, video)
        found.append(Recording(f"{subject}_{phase}", subject, camera, video, times, truth))
    return found


def own_clock(video: Path) -> np.ndarray:
    """Return the time stamps of a video's frames by its own clock, (T,).

    Args:
        video: video file.
    """
    from datasets.faces.video import open_frames

    return np.array([t for t, _ in open_frames(video)])


def spread_repeats(t: np.ndarray) -> np.ndarray:
    """Return time stamps in which a stamp that occurs several times is spread until the next one, (T,).

    Args:
        t: time stamps in seconds, (T,).
    """
    count = np.arange(len(t))
    first = np.flatnonzero(np.concatenate([[True], np.diff(t) != 0]))
    spread = np.interp(count, first, t[first])
    return spread + (t[-1] - t[0]) / max(1, len(t) - 1) * np.maximum(0, count - first[-1])


def vipl_hr(root: Path) -> list[Recording]:
    """Return the recordings of VIPL-HR: `p<k>/v<j>/source<s>/video.avi`, `wave.csv`, `gt_HR.csv`, `time.txt` (ms).

    Source 1 is a webcam, 2 a phone, 3 RealSense in colour, 4 RealSense in infrared. The wave has 60 samples a second.
    """
    names = {"source1": "webcam", "source2": "phone", "source3": "realsense", "source4": "nir"}
    base = root / "data" if (root / "data").is_dir() else root

    def times(folder: Path) -> np.ndarray:
        stamps = _numbers((folder / "time.txt").read_text().split(), folder / "time.txt") / 1000
        if not len(stamps):
            raise CorruptData(f"{folder / 'time.txt'} is empty")
        return stamps - stamps[0]

    def truth(folder: Path) -> Truth:
        wave = _column(folder / "wave.csv", "Wave")
        rates = _column(folder / "gt_HR.csv", 0 if not _has_header(folder / "gt_HR.csv", "HR") else "HR")
        t = np.arange(len(wave)) / 60
        return Truth(t, {"ppg": wave}, {"hr": np.interp(t, np.arange(len(rates)), rates)})

    found = []
    for folder in sorted(base.glob("p*/v*/source*")):
        video = folder / "video.avi"
        if not video.exists():
            continue
        person, scene = folder.parent.parent.name, folder.parent.name
        stamps = partial(times, folder) if (folder / "time.txt").exists() else None
        camera = names.get(folder.name, folder.name)
        found.append(Recording(f"{person}_{scene}", person, camera, video, stamps, partial(truth, folder)))
    return found


def _has_header(path: Path, name: str) -> bool:
    with open(path, newline="") as file:
        return name.lower() in [cell.strip().lower() for cell in next(csv.reader(file), [])]


def ubfc_phys(root: Path) -> list[Recording]:
    """Return the recordings of UBFC-Phys: `s<k>/vid_s<k>_T<j>.avi`, `bvp_s<k>_T<j>.csv` at 64 Hz."""

    def truth(path: Path) -> Truth:
        wave = _column(path, 0)
        return Truth(np.arange(len(wave)) / 64, {"ppg": wave})

    videos = [v for folder in _numbered(root, "s[0-9]*") for v in sorted(folder.glob("vid_*.avi"))]
    return [
        Recording(
            v.stem.removeprefix("vid_"),
            v.parent.name,
            "camera",
            v,
            truth=partial(truth, v.with_name(v.stem.replace("vid_", "bvp_", 1) + ".csv")),
        )
        for v in videos
    ]


def ibvp(root: Path) -> list[Recording]:
    """Return the recordings of iBVP: `p<ii>_<x>/p<ii>_<x>_rgb/*.bmp`, `_t/*.raw` (thermal), `_bvp.csv`, 30 Hz."""

    def truth(path: Path, frames: Path) -> Truth:
        wave = _column(path, 0)
        seconds = len([p for p in frames.iterdir() if p.is_file()]) / 30
        return Truth(np.arange(len(wave)) * seconds / len(wave), {"ppg": wave})

    found = []
    for folder in sorted(p for p in root.glob("p[0-9]*_*") if p.is_dir()):
        name = folder.name
        for camera, suffix in (("rgb", "rgb"), ("thermal", "t")):
            images = folder / f"{name}_{suffix}"
            if images.is_dir():
                reference = folder / f"{name}_bvp.csv"
                found.append(
                    Recording(
                        name,
                        name.partition("_")[0],
                        camera,
                        images,
                        truth=partial(truth, reference, images),
                    )
                )
    return found


def own_folder(root: Path) -> list[Recording]:
    """Return one's own recordings: `<session>/cam_<name>.mp4` (or avi, ...), perhaps `truth.csv`, `subject.txt`.

    `cam_<name>` may be a folder of images, of 30 frames a second if `cam_<name>_t.csv` does not give their time t in
    seconds. `truth.csv` has the columns t (seconds on the clock of the first camera by name), and ppg, resp, hr or rr.
    Without `subject.txt` a session is a person of its own.
    """
    found, nameless = [], []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []:
        videos = sorted(p for p in folder.glob("cam_*") if p.suffix.lower() in VIDEOS or p.is_dir())
        subject = folder / "subject.txt"
        person = subject.read_text().strip() if subject.exists() else folder.name
        nameless += [] if subject.exists() or not videos else [folder.name]
        table = folder / "truth.csv"
        truth = partial(_own_truth, table) if table.exists() else None
        for video in videos:
            stamps = folder / f"{video.stem}_t.csv"
            times = partial(_column, stamps, "t") if stamps.exists() else None
            found.append(Recording(folder.name, person, video.stem.removeprefix("cam_"), video, times, truth))
    if nameless:
        log.warning(
            "%d session(s) have no subject.txt, e.g. %s: each counts as a person of its own, so that somebody with "
            "several sessions may be in training and test",
            len(nameless),
            nameless[0],
        )
    return found


def _own_truth(path: Path) -> Truth:
    header = [cell.strip().lower() for cell in _rows(path)[0]]
    columns = {name: _column(path, name) for name in header if name in ("t", "ppg", "resp", "hr", "rr")}
    if "t" not in columns:
        raise CorruptData(f"{path} has no column t")
    waves: dict[str, np.ndarray] = {name: columns[name] for name in ("ppg", "resp") if name in columns}
    return Truth(columns["t"], waves, {name: columns[name] for name in ("hr", "rr") if name in columns})


def _numbered(root: Path, pattern: str) -> list[Path]:
    """Return the folders that match a pattern, in the order of the number in their names."""
    folders = [p for p in root.glob(pattern) if p.is_dir()]
    return sorted(folders, key=lambda p: (int((re.findall(r"\d+", p.name) or ["0"])[0]), p.name))


def vitallens(root: Path) -> list[Recording]:
    """Return the two sample clips of the package vitallens: `sample_video_<k>.mp4`, `sample_vitals_<k>.csv`.

    Each clip stands for a webcam and for a phone, so that the networks of both are tried on it.
    """

    def truth(path: Path, video: Path) -> Truth:
        header = _rows(path)[0]
        waves: dict[str, np.ndarray] = {name: _column(path, name) for name in ("ppg", "resp") if name in header}
        t = own_clock(video)  # a sample for each frame
        count = min(len(t), len(waves["ppg"]))
        return Truth(t[:count], {name: wave[:count] for name, wave in waves.items()})

    found = []
    for video in sorted(root.glob("sample_video_*.mp4")):
        number = video.stem.rpartition("_")[2]
        reference = partial(truth, root / f"sample_vitals_{number}.csv", video)
        found += [Recording(f"clip{number}", f"clip{number}", c, video, truth=reference) for c in ("phone", "webcam")]
    return found


LAYOUTS: dict[str, Callable[[Path], list[Recording]]] = {
    "ubfc_rppg": ubfc_rppg,
    "pure": pure,
    "cohface": cohface,
    "mcd_rppg": mcd_rppg,
    "vipl_hr": vipl_hr,
    "ubfc_phys": ubfc_phys,
    "ibvp": ibvp,
    "vitallens": vitallens,
    "own": own_folder,
}
