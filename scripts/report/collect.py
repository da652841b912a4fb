"""Records of all runs below a folder, read from their files. Imports no torch and composes no config."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from runner.config.address import IDENTITY_KEYS
from runner.errors import UserError
from runner.execution.provenance import is_stale
from runner.execution.record import read_metrics

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, UserError)  # errors that a damaged file may raise
SHARED = ("dataset", "schedule", "stages", "trainer")  # parts of the identity that all methods have
ENVIRONMENT = ("host", "device", "platform", "versions", "git", "peak_memory")  # keys of result.json


@dataclass
class Record:
    """Record of one run.

    Args:
        folder: folder of the run.
        method: method, by the name of its config file.
        dataset: data set, by the name of its config file.
        model: model, by the name of its config file.
        state: `finished`, `stale` (finished, by other code of its method than is here now), `failed`, `interrupted`,
            `running` or `unreadable`.
        seed: random seed.
        settings: values by which the run differs from others of its method, data set and model, and of other methods
            of its paper on the data set.
        metrics: final metrics.
        seconds: wall time of all stages.
        time: when the run finished, or its state was written.
        error: error of a failed run, or why the record cannot be read.
        environment: host, device, platform, versions, git commit, peak memory and numerics of a finished run.
        identity: config that decides the result.
        experiment: experiment that the run was executed for, or None.
    """

    folder: Path
    method: str
    dataset: str
    model: str
    state: str = "unreadable"
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    time: datetime | None = None
    error: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    experiment: str | None = None

    @property
    def group(self) -> tuple[str, str, str]:
        """Method, data set and model."""
        return self.method, self.dataset, self.model

    @property
    def is_finished(self) -> bool:
        """True if the run has a result."""
        return self.state in ("finished", "stale")

    @property
    def figures(self) -> list[Path]:
        """Files of the figures that the run has drawn."""
        return sorted((self.folder / "figures").glob("[!.]*.png"))


def collect(outputs: Path) -> list[Record]:
    """Return a record of every run that finished, failed or is under way, the newest first."""
    records = [record for folder in outputs.glob("[!.]*/*/[!.]*") if (record := read_record(folder))]
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    alike: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for group in groups.values():
        set_settings(group)
        alike[group[0].method.partition("/")[0], group[0].dataset] += group
    for group in alike.values():
        set_shared_settings(group)
    return sorted(records, key=lambda r: (-r.time.timestamp() if r.time else 0.0, str(r.folder)))


def read_record(folder: Path) -> Record | None:
    """Return the record of a run's folder, marked as unreadable if a file is damaged; None if there is no run."""
    record = Record(folder, *_names_of_folder(folder))
    try:
        result = _load(folder / "result.json")
        if result is not None:
            _read_finished(record, result)
        elif (state := _load(folder / "state.json")) is not None:
            _read_unfinished(record, state)
        else:
            return None
    except DAMAGE as error:
        record.state, record.error = "unreadable", f"{type(error).__name__}: {error}"
    return record


def read_curves(record: Record, points: int) -> list[dict[str, float]]:
    """Return the rows of metrics.csv. If the file is damaged, mark the record as unreadable and return no rows.

    Args:
        record: record of the run.
        points: greatest number of rows. Consecutive rows are merged into one, with the last value of each metric.
    """
    try:
        rows = read_metrics(record.folder)
        if not all("epoch" in row for row in rows):
            raise ValueError("no column epoch")
    except DAMAGE as error:
        damage = f"metrics.csv is damaged: {error}"
        record.state, record.error = "unreadable", "\n".join(filter(None, [record.error, damage]))
        return []
    stride = math.ceil(len(rows) / points) or 1
    return [
        {name: value for row in rows[first : first + stride] for name, value in row.items()}
        for first in range(0, len(rows), stride)
    ]


def _names_of_folder(folder: Path) -> tuple[str, str, str]:
    """Return method, data set and model by the name of the folder: <paper>/<method>-<dataset>-<model>/<id>."""
    paper, name = folder.parts[-3:-1]
    method, dataset, model = [*name.rsplit("-", 2), "", ""][:3]
    return paper if method == paper else f"{paper}/{method}", dataset, model


def _load(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None if there is no file. Raises ValueError if the file is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged: it is not a JSON object")
    return content


def _read_finished(record: Record, result: dict[str, Any]) -> None:
    required = ("choices", "metrics", "seconds", "finished", "seed", "identity", "code", *ENVIRONMENT)
    if lacking := [key for key in required if key not in result]:
        raise ValueError(f"result.json is damaged: it lacks {', '.join(lacking)}")
    choices = {group: result["choices"][group] for group in ("method", "dataset", "model")}
    record.method, record.dataset, record.model = map(str, choices.values())
    record.experiment = result["choices"].get("experiment")
    record.metrics = {str(name): float(value) for name, value in result["metrics"].items()}
    record.seconds = float(sum(result["seconds"].values()))
    record.time = datetime.fromisoformat(result["finished"])
    record.seed, record.identity = result["seed"], result["identity"]
    record.environment = {name: result[name] for name in ENVIRONMENT} | {"numerics": result.get("numerics")}
    record.state = "stale" if is_stale(result) else "finished"


def _read_unfinished(record: Record, state: dict[str, Any]) -> None:
    record.state, record.error = str(state["state"]), str(state.get("error", "")).strip()
    record.time = datetime.fromisoformat(state["time"])
    record.environment = {"host": state["host"]}
    config = record.folder / "config.yaml"
    if config.exists():
        try:
            record.identity = yaml.load(config.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise ValueError(f"config.yaml is damaged: {error}") from error
        record.seed = record.identity["seed"]


def set_settings(group: list[Record]) -> None:
    """Set the settings of runs of one method, data set and model: the values that not all of them share."""
    identities = [{key: record.identity.get(key) for key in IDENTITY_KEYS if key != "seed"} for record in group]
    for key, values in differing_values(identities):
        for record, value in zip(group, values, strict=True):
            follows_seed = key.endswith(".seed") and value == record.seed
            if value is not None and not follows_seed:
                record.settings[key] = str(value)


def set_shared_settings(group: list[Record]) -> None:
    """Add the settings that different methods of a paper share on a data set, where not all of them are the same.

    These are the keys of SHARED; those of methods and models differ by their nature.
    """
    for key, values in differing_values([{k: r.identity.get(k) for k in SHARED} for r in group]):
        for record, value in zip(group, values, strict=True):
            follows_seed = key.endswith(".seed") and value == record.seed
            if value is not None and not follows_seed:
                record.settings.setdefault(key, str(value))


def differing_values(nodes: list[dict[str, Any]], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield each key of nested nodes that has several values, and the value in every node, None if it has none."""
    for key in dict.fromkeys(key for node in nodes for key in node):
        values = [node.get(key) for node in nodes]
        known = [value for value in values if value is not None]
        if all(value == known[0] for value in known):
            continue
        if all(isinstance(value, dict) for value in known):
            yield from differing_values([value or {} for value in values], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values
