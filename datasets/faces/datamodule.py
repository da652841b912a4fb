"""DataModules of sessions with synchronous cameras."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule

from datasets.checks import check_choice, check_positive
from datasets.faces.clips import AlignedSession, FaceClips, align, cut
from datasets.faces.session import Session
from datasets.progress import track

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


class ClipLoader:
    """Loader of an epoch of training: in each step, one clip of each of B distinct sessions, at random places.

    Sessions of different people come first. Randomness is torch's, which the runner seeds for each epoch.

    Args:
        sessions: sessions on a common clock.
        batch_size: number of sessions B in a batch.
        length: columns of a clip.
        steps: batches in an epoch.
        fs: columns a second.
    """

    def __init__(self, sessions: Sequence[AlignedSession], batch_size: int, length: int, steps: int, fs: float) -> None:
        self.sessions, self.batch_size, self.length = list(sessions), min(batch_size, len(sessions)), length
        self.steps, self.fs = steps, fs

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[FaceClips]:
        for _ in range(self.steps):
            chosen = [self.sessions[i] for i in self._draw()]
            starts = [int(torch.randint(0, s.length - self.length + 1, ())) for s in chosen]
            yield cut(chosen, starts, self.length, self.fs)

    def _draw(self) -> list[int]:
        order = torch.randperm(len(self.sessions)).tolist()
        seen: dict[str, int] = {}
        turn = []  # how many sessions of the same person come before this one
        for i in order:
            turn.append(seen.get(self.sessions[i].subject, 0))
            seen[self.sessions[i].subject] = turn[-1] + 1
        return [order[i] for i in sorted(range(len(order)), key=turn.__getitem__)[: self.batch_size]]


class WindowLoader:
    """Loader of fixed windows of each session, without overlap.

    Args:
        sessions: sessions on a common clock.
        length: columns of a window.
        fs: columns a second.
        batch_size: None: a batch holds all windows of one session. Else a batch holds the windows at the same place of
            up to so many sessions, as a contrast between sessions needs.
    """

    def __init__(
        self, sessions: Sequence[AlignedSession], length: int, fs: float, batch_size: int | None = None
    ) -> None:
        self.sessions, self.length, self.fs, self.batch_size = list(sessions), length, fs, batch_size

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[FaceClips]:
        for places in self._batches():
            sessions, starts = zip(*places, strict=True)
            yield cut(sessions, starts, self.length, self.fs)

    def _batches(self) -> list[list[tuple[AlignedSession, int]]]:
        windows = [[(s, k * self.length) for k in range(s.length // self.length)] for s in self.sessions]
        if self.batch_size is None:
            return [places for places in windows if places]
        batches = []
        for k in range(max(map(len, windows), default=0)):
            row = [places[k] for places in windows if len(places) > k]
            parts = [row[i : i + self.batch_size] for i in range(0, len(row), self.batch_size)]
            if len(parts) > 1 and len(parts[-1]) < 2:
                parts[-2:] = [parts[-2] + parts[-1]]  # a contrast needs two sessions
            batches += parts
        return batches


class FaceDataModule(LightningDataModule):
    """Loaders of `FaceClips`: synchronous maps of several cameras, (B, C, M, L) float32, raw grey levels or speeds.

    `input=rgb`: patch means of the colours, C = 3 (1 for infrared), levels 0 to 255. `input=flow`: vertical speed of
    the patches, C = 1, in pixels of a crop of 128 per 1/30 s. Training yields clips that are `margin` times as long as
    `clip_length`, so that a method can change their speed; validation yields clips of `clip_length`, test windows of
    `eval_seconds`. Contact wave and rate are NaN where there is none.

    Args:
        signal: wave that counts as the truth: pulse or resp.
        input: rgb or flow; None: rgb for the pulse, flow for respiration.
        cameras: cameras to use; None: all that the data has.
        fs: columns a second; None: 30 for the pulse, 15 for respiration.
        clip_length: columns of a clip, T.
        margin: length of a training clip before its speed is changed, as a multiple of `clip_length`.
        eval_seconds: seconds of a test window; None: 10 for the pulse, 30 for respiration.
        batch_size: sessions in a batch.
        steps_per_epoch: steps that count as an epoch.
        root: data folder.
        seed: seed of the run.
        workers: processes that build maps.
    """

    task = "face-video"

    def __init__(
        self,
        signal: Literal["pulse", "resp"] = "pulse",
        input: Literal["rgb", "flow"] | None = None,
        cameras: Sequence[str] | None = None,
        fs: float | None = None,
        clip_length: int = 300,
        margin: float = 1.2,
        eval_seconds: float | None = None,
        batch_size: int = 32,
        steps_per_epoch: int = 60,
        root: str | Path = "data",
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        check_choice("dataset.signal", signal, ("pulse", "resp"))
        check_choice("dataset.input", input, (None, "rgb", "flow"))
        pulse = signal == "pulse"
        self.signal, self.input = signal, input or ("rgb" if pulse else "flow")
        self.fs = float((30.0 if pulse else 15.0) if fs is None else fs)
        self.eval_seconds = float((10.0 if pulse else 30.0) if eval_seconds is None else eval_seconds)
        check_positive("dataset", fs=self.fs, clip_length=clip_length, batch_size=batch_size)
        check_positive("dataset", steps_per_epoch=steps_per_epoch, eval_seconds=self.eval_seconds)
        if margin < 1:
            raise ValueError(f"dataset.margin must be at least 1, got {margin}")
        if clip_length < 16:
            raise ValueError(f"dataset.clip_length must be at least 16 columns, got {clip_length}")
        if cameras is not None and (len(set(cameras)) != len(cameras) or not cameras):
            raise ValueError(f"dataset.cameras must name different cameras, got {list(cameras)}")
        self.wanted = None if cameras is None else list(cameras)
        self.clip_length, self.margin = clip_length, margin
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch
        self.root, self.seed, self.workers = Path(root), seed, workers
        self.sessions: dict[str, list[AlignedSession]] = {}

    @abstractmethod
    def read(self, split: str) -> Sequence[Session]:
        """Return the sessions of a split: train, val or test."""

    @abstractmethod
    def subjects(self) -> dict[str, list[str]]:
        """Return the people of each split; cheap, so that it can be asked before maps are read."""

    def listed_cameras(self) -> set[str]:
        """Return the cameras of all sessions, as far as they are known before maps are read."""
        return set()

    def setup(self, stage: str | None = None) -> None:
        """Read the test sessions, once; others are read when a method loads them, or if they have further cameras.

        Raises:
            ValueError: people are in two splits, sessions are too short or do not fit together.
        """
        if not self.sessions:
            subjects = self.subjects()
            check_subjects(subjects)
            self.load("test")
            if self.listed_cameras() - set(self.cameras):
                self.load(*(split for split in SPLITS if subjects[split]))

    def load(self, *splits: str) -> None:
        """Read splits and bring their sessions to a common clock, once.

        Args:
            splits: train, val or test.

        Raises:
            ValueError: a split has no session that is long enough, or cameras do not fit together.
        """
        for split in splits:
            if split in self.sessions:
                continue
            sessions = self.read(split)
            aligned, failures = [], []
            for session in track(sessions, f"{split} sessions aligned"):
                try:
                    aligned.append(align(session, self.signal, self.input, self.fs))  # type: ignore[arg-type]
                except ValueError as error:
                    failures.append(str(error))
            if failures and not aligned:
                raise ValueError(failures[0])
            for failure in failures:
                log.warning("left out: %s", failure)
            needed = {"train": self.train_length, "val": self.clip_length, "test": self.test_length}[split]
            self.sessions[split] = long_enough(aligned, needed, self.fs, split)
        self._check_cameras()

    def _check_cameras(self) -> None:
        sessions = [session for part in self.sessions.values() for session in part]
        found = list(dict.fromkeys(name for session in sessions for name in session.maps))
        known = sorted({*found, *self.listed_cameras()})
        if self.wanted is not None and (missing := [name for name in self.wanted if name not in known]):
            raise ValueError(f"dataset.cameras: no session has {', '.join(missing)}; there are {', '.join(known)}")
        self.cameras = self.wanted or sorted(found)
        shapes = {
            name: {session.maps[name].shape[:2] for session in sessions if name in session.maps} for name in found
        }
        for name, different in shapes.items():
            if len(different) > 1:
                raise ValueError(f"camera {name}: maps of different shapes (channels, patches): {sorted(different)}")
        if len({patches for ((_, patches),) in shapes.values()}) > 1:
            raise ValueError(f"the cameras have maps of different grids: {shapes}")

    @property
    def train_length(self) -> int:
        """Columns of a training clip."""
        return math.ceil(self.margin * self.clip_length)

    @property
    def test_length(self) -> int:
        """Columns of a test window."""
        return round(self.eval_seconds * self.fs)

    @property
    def dims(self) -> dict[str, Any]:
        """Arguments of a network that follow from the data, after `setup`: channels by camera, patches."""
        found: dict[str, tuple[int, ...]] = {}
        for session in (session for part in self.sessions.values() for session in part):
            found |= {name: values.shape for name, values in session.maps.items() if name not in found}
        return {
            "channels": {name: int(found[name][0]) for name in self.cameras},
            "patches": int(found[self.cameras[0]][1]),
        }

    def train_dataloader(self) -> ClipLoader:
        """Return the loader of training clips."""
        self.load("train")
        part = self.sessions["train"]
        return ClipLoader(part, self.batch_size, self.train_length, self.steps_per_epoch, self.fs)

    def val_dataloader(self) -> WindowLoader:
        """Return the loader of validation clips: each batch has clips of different sessions."""
        self.load("val")
        return WindowLoader(self.sessions["val"], self.clip_length, self.fs, self.batch_size)

    def test_dataloader(self) -> WindowLoader:
        """Return the loader of test windows: each batch has all windows of a session."""
        return WindowLoader(self.sessions["test"], self.test_length, self.fs)


def check_subjects(splits: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if a person is in two splits.

    Args:
        splits: people of each split; a person occurs once for each session.
    """
    owner: dict[str, str] = {}
    for split, subjects in splits.items():
        for subject in subjects:
            if owner.setdefault(subject, split) != split:
                raise ValueError(f"subject {subject} is in two splits, {owner[subject]} and {split}")


def long_enough(sessions: list[AlignedSession], needed: int, fs: float, split: str) -> list[AlignedSession]:
    """Return the sessions that are long enough for a window, and say which are not.

    Args:
        sessions: sessions of a split.
        needed: columns of a window.
        fs: columns a second.
        split: name of the split.

    Raises:
        ValueError: none is long enough.
    """
    kept = [session for session in sessions if session.length >= needed]
    short = [session for session in sessions if session.length < needed]
    if not kept:
        longest = max((session.length for session in short), default=0) / fs
        key = "dataset.eval_seconds" if split == "test" else "dataset.clip_length or dataset.margin"
        raise ValueError(
            f"no {split} session is as long as a window of {needed / fs:.1f} s (the longest has {longest:.1f} s); "
            f"lower {key}"
            if short
            else f"there is no {split} session"
        )
    if short:
        names = ", ".join(session.name for session in short[:5]) + (", ..." if len(short) > 5 else "")
        log.warning("%d %s session(s) shorter than %.1f s are left out: %s", len(short), split, needed / fs, names)
    return kept
