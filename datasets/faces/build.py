"""Build the maps of a corpus: in parallel over recordings, resumable, with progress."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml

from datasets.faces.detect import make_detector
from datasets.faces.frontend import FrontEnd, build_map
from datasets.faces.layouts import LAYOUTS, Recording
from datasets.faces.session import (
    Session,
    Truth,
    check_clock,
    load_map,
    load_truth,
    save_map,
    save_session,
    save_truth,
)
from datasets.faces.sync import estimate_offset
from datasets.faces.video import open_frames
from datasets.files import atomic_write
from datasets.progress import track

PICTURE = 12  # patches along each side from which on a map shows a face
log = logging.getLogger(__name__)


def settings_digest(settings: FrontEnd, detector: str) -> str:
    """Return a short digest of what decides the content of maps.

    Args:
        settings: what is measured.
        detector: name of the face detector.
    """
    text = json.dumps([vars(settings), detector], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def noted(settings: FrontEnd, detector: str) -> dict[str, Any]:
    """Return what `settings.yaml` beside maps says of how they were built.

    Args:
        settings: what is measured.
        detector: name of the face detector.
    """
    box = None if settings.box is None else list(settings.box)
    content = {**vars(settings), "box": box, "detector": detector if box is None else None}
    return {"digest": settings_digest(settings, detector), **content}


def noted_settings(out: Path) -> dict[str, Any]:
    """Return the content of `settings.yaml` of a folder of maps; empty if there is none.

    Args:
        out: folder of the sessions.
    """
    note = out / "settings.yaml"
    return yaml.safe_load(note.read_text()) if note.exists() else {}


def build_recording(recording: Recording, folder: Path, settings: FrontEnd, detector: str) -> None:
    """Write the map and the reference of one recording.

    Args:
        recording: recording to read.
        folder: folder of its session.
        settings: what is measured.
        detector: name of the face detector.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = read_truth(recording)
    times = recording.times() if recording.times else None
    frames = open_frames(recording.path, times, recording.fps)
    built = build_map(frames, None if settings.box else make_detector(detector), settings)
    if truth is not None:
        save_truth(truth, folder / f"truth_{recording.camera}.npz")
    save_map(built, folder / f"cam_{recording.camera}.npz")


def read_truth(recording: Recording) -> Truth | None:
    """Return the contact measurements of a recording; None, and a warning, if their file is missing.

    Args:
        recording: recording whose reference is read.

    Raises:
        ValueError: the reference is damaged, or its clock runs backwards.
    """
    if recording.truth is None:
        return None
    try:
        truth = recording.truth()
    except FileNotFoundError as error:
        log.warning("%s has no reference: %s", recording.path, error)
        return None
    check_clock(truth.t, f"reference of {recording.path}")
    return truth


def build_corpus(
    recordings: Sequence[Recording],
    out: Path,
    settings: FrontEnd | None = None,
    detector: str = "ultralight",
    workers: int = 0,
    synchronise: bool = False,
    skip_failures: bool = True,
) -> list[str]:
    """Build the maps of recordings that have none yet. A stopped build goes on where it was.

    Args:
        recordings: recordings of a corpus.
        out: folder of the sessions; each gets a folder below it.
        settings: what is measured.
        detector: name of the face detector.
        workers: processes; 0: this one.
        synchronise: estimate the offsets of the cameras' clocks, and correct the time stamps.
        skip_failures: go on after a recording that cannot be used, and say so; false: raise its error.

    Returns:
        Messages of the recordings that could not be used.

    Raises:
        ValueError: the folder was built with other settings, or no recording could be used.
    """
    settings = settings or FrontEnd()
    check_settings(out, noted(settings, detector))
    if settings.grid > PICTURE:
        log.warning(
            "%s: maps of %d x %d patches are small pictures of the faces; keep them as private as the videos",
            out,
            settings.grid,
            settings.grid,
        )
    todo = [r for r in recordings if not (out / r.session / f"cam_{r.camera}.npz").exists()]
    failures: list[str] = []
    jobs = [(r, out / r.session, settings, detector) for r in todo]
    if workers <= 1:
        for job in track(jobs, "maps built"):
            _guarded(job, failures, skip_failures)
    else:
        _parallel(jobs, workers, failures, skip_failures)
    for message in failures:
        log.warning("left out: %s", message)
    _finish(recordings, out, synchronise)
    if recordings and not any(out.glob("*/meta.yaml")):
        raise ValueError("no recording could be used:\n" + "\n".join(failures[:10]))
    return failures


def _guarded(job: tuple[Any, ...], failures: list[str], skip: bool) -> None:
    try:
        build_recording(*job)
    except (ValueError, OSError, KeyError) as error:
        if not skip:
            raise
        failures.append(str(error))


def _parallel(jobs: list[tuple[Any, ...]], workers: int, failures: list[str], skip: bool) -> None:
    """Build in processes that live for the whole corpus, and show how far they are."""
    from multiprocessing import get_context

    _jobs[:] = jobs
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        futures = [pool.submit(_numbered_job, number) for number in range(len(jobs))]
        for _ in track(range(len(jobs)), "maps built"):
            message = next_done(futures).result()
            if message and not skip:
                raise ValueError(message)
            failures += [message] if message else []


# The readers of a corpus hold functions, which cannot be sent to a process: forked processes inherit this list.
_jobs: list[tuple[Any, ...]] = []


def _numbered_job(number: int) -> str | None:
    try:
        build_recording(*_jobs[number])
    except (ValueError, OSError, KeyError) as error:
        return str(error)
    return None


def next_done(futures: list[Any]) -> Any:
    """Remove and return the next future that is done.

    Args:
        futures: futures that are waited for.
    """
    future = next(as_completed(futures))
    futures.remove(future)
    return future


def check_settings(out: Path, content: dict[str, Any]) -> None:
    """Note the settings of a folder of maps, or check that they are the same.

    Args:
        out: folder of the sessions.
        content: settings and their digest.

    Raises:
        ValueError: the folder was built with other settings.
    """
    found = noted_settings(out)
    if not found:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / "settings.yaml") as path:
            path.write_text(yaml.safe_dump(content))
    elif found["digest"] != content["digest"]:
        other = [f"{key}={found[key]}" for key, value in content.items() if key in found and found[key] != value]
        raise ValueError(f"{out} has maps that were built with other settings, {other[-1]}; choose another folder")


def _finish(recordings: Sequence[Recording], out: Path, synchronise: bool) -> None:
    """Put references and descriptions beside the maps of each session; meta.yaml makes a session count as complete.

    A session to which a camera was added since is done again.
    """
    by_session: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_session.setdefault(recording.session, []).append(recording)
    for name, group in by_session.items():
        folder = out / name
        maps = {r.camera: folder / f"cam_{r.camera}.npz" for r in group}
        maps = {camera: path for camera, path in maps.items() if path.exists()}
        note = folder / "meta.yaml"
        before = yaml.safe_load(note.read_text()) if note.exists() else {}
        if not maps or set(maps) <= set(before.get("cameras", ())):
            continue
        if len(maps) < len(group):
            log.warning("session %s has %d of %d cameras: %s", name, len(maps), len(group), ", ".join(maps))
        loaded = {camera: load_map(path) for camera, path in maps.items()}
        for camera, seconds in before.get("offsets", {}).items():
            if camera in loaded:
                loaded[camera].t = loaded[camera].t - seconds
        note.unlink(missing_ok=True)
        meta: dict[str, Any] = {}
        if synchronise and len(loaded) > 1:
            meta["offsets"] = _synchronise(name, loaded)
        first, *others = (folder / f"truth_{camera}.npz" for camera in maps)
        references = [first, folder / "truth.npz", *others]
        truth = next((load_truth(path) for path in references if path.exists()), None)
        save_session(Session(name, group[0].subject, loaded, truth, meta), folder)
        for path in (first, *others):
            path.unlink(missing_ok=True)


def _synchronise(name: str, maps: dict[str, Any]) -> dict[str, float]:
    """Correct the clocks of a session's cameras to that of the first one, and say by how much."""
    first, *others = maps
    offsets = {}
    for camera in others:
        offset = estimate_offset(maps[first], maps[camera])
        if offset.trusted:
            maps[camera].t = maps[camera].t + offset.seconds
            offsets[camera] = offset.seconds
            log.info(
                "session %s: the clock of %s is put %+.2f s (correlation with %s: %.2f)",
                name,
                camera,
                offset.seconds,
                first,
                offset.correlation,
            )
        else:
            log.warning(
                "session %s: no offset between %s and %s was found (correlation %.2f); the clocks stay as they are",
                name,
                first,
                camera,
                offset.correlation,
            )
    return offsets


def recordings_of(layout: str, root: Path) -> list[Recording]:
    """Return the recordings of a corpus.

    Args:
        layout: name of its layout.
        root: its folder.

    Raises:
        ValueError: the folder has no such recordings.
    """
    found = LAYOUTS[layout](root)
    if not found:
        raise ValueError(f"{root.absolute()} has no recordings in the layout {layout}: {LAYOUTS[layout].__doc__}")
    return found
