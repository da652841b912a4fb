"""Real recordings as data sets: public corpora, and one's own folder of synchronous videos."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from datasets.checks import check_choice, check_fraction, check_keys, check_positive, check_seed
from datasets.download import cache_folder, first_existing, missing
from datasets.faces.build import build_corpus, noted, noted_settings, recordings_of, settings_digest
from datasets.faces.datamodule import SPLITS, FaceDataModule
from datasets.faces.frontend import FrontEnd
from datasets.faces.layouts import LAYOUTS
from datasets.faces.session import Session, load_session

log = logging.getLogger(__name__)


class FaceRecordings(FaceDataModule):
    """Recordings of faces, whose maps are built once. Yields what `FaceDataModule` says.

    Maps lie in `maps`, or in `face_maps` in the data folder; `python -m scripts.build_stmaps` builds them too.
    Splits are by person: a person's sessions are all in one split.

    Args:
        layout: how the recordings lie: ubfc_rppg, pure, cohface, mcd_rppg, vipl_hr, ubfc_phys, ibvp,
            vitallens, own.
        folder: folder of the recordings; one that is not absolute is below the data folder.
        maps: folder of the maps; null: `face_maps/<layout>-<digest>` below the data folder or the user's cache.
        split: share of the people in each split: train, val, test.
        split_seed: seed of the assignment of people.
        grid: patches along each side of the face box.
        detector: ultralight or blazeface.
        box: fixed face box x, y, width, height in pixels; null: it is detected.
        flow: compute optical flow, which respiration needs.
        synchronise: estimate the offsets between the clocks of the cameras; null: for one's own folder.
        **kwargs: arguments of `FaceDataModule`.
    """

    def __init__(
        self,
        layout: str = "own",
        folder: str = "faces",
        maps: str | None = None,
        split: Mapping[str, float] | None = None,
        split_seed: int = 0,
        grid: int = 8,
        detector: Literal["ultralight", "blazeface"] = "ultralight",
        box: Sequence[int] | None = None,
        flow: bool = True,
        synchronise: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("dataset.layout", layout, tuple(LAYOUTS))
        check_choice("dataset.detector", detector, ("ultralight", "blazeface"))
        check_positive("dataset", grid=grid)
        check_seed("dataset", split_seed=split_seed)
        self.shares = dict(split or {"train": 0.7, "val": 0.1, "test": 0.2})
        check_keys("dataset.split", self.shares, SPLITS, required=SPLITS)
        check_fraction("dataset.split", **self.shares)
        if self.input == "flow" and not flow:
            raise ValueError("dataset.flow=false: respiration from flow needs it")
        if box is not None and len(box) != 4:
            raise ValueError(f"dataset.box must be x, y, width, height, got {list(box)}")
        self.layout, self.detector, self.split_seed = layout, detector, split_seed
        self.folder = Path(folder).expanduser()
        fixed = None if box is None else (int(box[0]), int(box[1]), int(box[2]), int(box[3]))
        self.settings = FrontEnd(grid=grid, flow=flow, box=fixed)
        self.synchronise = layout == "own" if synchronise is None else synchronise
        self.given_maps = maps
        self._assigned: dict[str, list[Path]] | None = None

    def source(self) -> Path:
        """Return the folder of the recordings.

        Raises:
            MissingData: it is not there.
        """
        places = [self.root / self.folder, self.folder.absolute()]
        found = first_existing(*places)
        if found is None:
            raise missing(f"dataset.folder={self.folder}, layout {self.layout},", places, None, self.root)
        return found

    def maps_folder(self) -> Path:
        """Return the folder of the maps."""
        if self.given_maps:
            return Path(self.given_maps).expanduser()
        digest = settings_digest(self.settings, self.detector)
        place = hashlib.sha256(str(self.source().resolve()).encode()).hexdigest()[:8]
        return cache_folder(self.root, "face_maps") / f"{self.layout}-{place}-{digest}"

    def prepare_data(self) -> None:
        """Build the maps that are missing."""
        if self.given_maps and any(self.maps_folder().glob("*/meta.yaml")):
            self._check_given()
            return
        recordings = recordings_of(self.layout, self.source())
        build_corpus(
            recordings, self.maps_folder(), self.settings, self.detector, self.workers, synchronise=self.synchronise
        )

    def _check_given(self) -> None:
        """Raise ValueError if the given maps were built with other settings than those of this data set."""
        built = noted_settings(self.maps_folder())
        wanted = noted(self.settings, self.detector)
        for key in ("grid", "box", "detector"):
            if key in built and built[key] != wanted[key]:
                raise ValueError(
                    f"dataset.maps={self.given_maps} was built with {key}={built[key]}, dataset.{key} is {wanted[key]}"
                )

    def listed_cameras(self) -> set[str]:
        """Return the cameras that the sessions have, of those that are wanted."""
        notes = [yaml.safe_load((f / "meta.yaml").read_text()) for part in self.assigned().values() for f in part]
        listed = {name for note in notes for name in note.get("cameras", ())}
        return listed if self.wanted is None else listed & set(self.wanted)

    def assigned(self) -> dict[str, list[Path]]:
        """Return the folders of the sessions of each split, by person.

        Raises:
            ValueError: there are fewer people than splits with a share.
        """
        if self._assigned is None:
            self._assigned = split_by_person(self.maps_folder(), self.shares, self.split_seed)
        return self._assigned

    def subjects(self) -> dict[str, list[str]]:
        """Return the person of each session."""
        return {split: [person_of(folder) for folder in folders] for split, folders in self.assigned().items()}

    def read(self, split: str) -> list[Session]:
        """Read the sessions of a split; those without any of the wanted cameras are left out, and said."""
        sessions = [load_session(folder, self.wanted) for folder in self.assigned()[split]]
        empty = [session.name for session in sessions if not session.cameras]
        if empty:
            log.warning("%d %s session(s) have none of the cameras %s: %s", len(empty), split, self.wanted, empty[:5])
        alone = [session.name for session in sessions if len(session.cameras) == 1]
        if alone and len(alone) < len(sessions) - len(empty):
            log.warning("%d %s session(s) have a single camera, e.g. %s", len(alone), split, alone[0])
        return [session for session in sessions if session.cameras]


def person_of(folder: Path) -> str:
    """Return the person of a session's folder."""
    return str(yaml.safe_load((folder / "meta.yaml").read_text())["subject"])


def split_by_person(root: Path, shares: Mapping[str, float], seed: int) -> dict[str, list[Path]]:
    """Assign people to splits, and return the folders of their sessions.

    Args:
        root: folder of the sessions.
        shares: share of the people in each split; they are scaled to sum to 1.
        seed: seed of the assignment.

    Raises:
        ValueError: there are fewer people than splits with a share.
    """
    folders = sorted(path.parent for path in root.glob("*/meta.yaml"))
    people = sorted({person_of(folder) for folder in folders})
    wanted = [split for split in SPLITS if shares[split] > 0]
    if len(people) < len(wanted):
        raise ValueError(
            f"{root} has sessions of {len(people)} person(s), too few for dataset.split: {', '.join(wanted)}"
        )
    order = [people[i] for i in np.random.default_rng(seed).permutation(len(people))]
    total = sum(shares[split] for split in wanted)
    counts = [max(1, round(len(people) * shares[split] / total)) for split in wanted]
    counts[int(np.argmax(counts))] += len(people) - sum(counts)
    owner: dict[str, str] = {}
    start = 0
    for split, count in zip(wanted, counts, strict=True):
        owner |= dict.fromkeys(order[start : start + count], split)
        start += count
    return {split: [f for f in folders if owner[person_of(f)] == split] for split in SPLITS}
