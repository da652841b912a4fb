"""Synthetic faces as a data set. Needs no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.checks import check_keys, check_not_negative, check_positive, check_seed
from datasets.faces.datamodule import SPLITS, FaceDataModule
from datasets.faces.physiology import physiology_from_record, read_record
from datasets.faces.scene import PROFILES, SceneSettings
from datasets.faces.session import Session
from datasets.faces.synthetic import synthetic_session
from datasets.progress import track


class SyntheticFaces(FaceDataModule):
    """Generated sessions of two or more cameras. Yields what `FaceDataModule` says.

    Args:
        sessions: number of sessions of each split: train, val, test.
        data_seed: seed of the sessions; it does not follow the seed of the run.
        test_levels: motion levels that the test sessions have in turn; None: the level of the others.
        test_record: csv file with a pulse wave and breath of contact sensors, below the data folder or absolute; random
            parts of it are the hearts of the test sessions, unlike those of training. None: generated.
        profiles: profile of each camera (`datasets.faces.scene.PROFILES`), where its name is not that of a profile.
        scene: settings of `datasets.faces.scene.SceneSettings`: seconds, grid, level, amplitude, flicker, ...
        **kwargs: arguments of `FaceDataModule`.
    """

    def __init__(
        self,
        sessions: Mapping[str, int] | None = None,
        data_seed: int = 0,
        test_levels: Sequence[float] | None = None,
        test_record: str | None = None,
        profiles: Mapping[str, str] | None = None,
        scene: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = dict(sessions or {"train": 120, "val": 20, "test": 30})
        check_keys("dataset.sessions", self.sizes, SPLITS, required=SPLITS)
        check_positive("dataset.sessions", **self.sizes)
        check_seed("dataset", data_seed=data_seed)
        check_not_negative("dataset", **{f"test_levels[{i}]": level for i, level in enumerate(test_levels or ())})
        check_keys("dataset.scene", scene or {}, tuple(SceneSettings.__dataclass_fields__))
        ranges: dict[str, Any] = {
            n: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for n, v in (scene or {}).items()
        }
        self.scene, self.data_seed, self.test_levels = SceneSettings(**ranges), data_seed, test_levels
        self.scene.check()
        self.record = None if test_record is None else read_record(self.root / Path(test_record).expanduser())
        self.wanted = self.wanted or ["webcam", "phone"]
        self.profiles = dict(profiles or {})
        if unknown := [self.profiles.get(n, n) for n in self.wanted if self.profiles.get(n, n) not in PROFILES]:
            raise ValueError(f"dataset.cameras: {unknown[0]} is unknown; choose from {', '.join(PROFILES)}")

    def read(self, split: str) -> Sequence[Session]:
        """Generate the sessions of a split."""
        number = SPLITS.index(split)
        return [self._session(number, k) for k in track(range(self.sizes[split]), f"{split} sessions generated")]

    def subjects(self) -> dict[str, list[str]]:
        """Return a person for each session."""
        return {split: [f"{split}{k}" for k in range(count)] for split, count in self.sizes.items()}

    def _session(self, split: int, index: int) -> Session:
        key, scene, physiology = (self.data_seed, split, index), self.scene, None
        if split == SPLITS.index("test") and self.test_levels:
            level = self.test_levels[index % len(self.test_levels)]
            scene = SceneSettings(**{**vars(scene), "level": float(level)})
        if split == SPLITS.index("test") and self.record:
            physiology = physiology_from_record(np.random.default_rng(key), self.record, scene.seconds)
        assert self.wanted is not None
        return synthetic_session(key, scene, self.wanted, physiology, self.profiles)
