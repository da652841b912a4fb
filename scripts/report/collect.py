"""What the run folders below outputs/ say, one record a run; needs no torch, and no config is composed."""

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
from runner.execution.provenance import is_stale
from runner.execution.record import read_metrics

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what a damaged file may raise


@dataclass
class Record:
    """One run.

    state: `finished`, `stale` (finished, by other code of its method than is here now), `failed`, `interrupted`,
    `running` or `unreadable`. settings: where it differs from other runs of its method, dataset and model.
    seconds: wall time of all stages. when: it finished, or its state was written. error: of a run that failed, or why
    it cannot be read. environment: host, device, platform, versions and git of a finished run.
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
    when: datetime | None = None
    error: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> tuple[str, str, str]:
        return self.method, self.dataset, self.model

    @property
    def is_finished(self) -> bool:
        return self.state in ("finished", "stale")

    @property
    def figures(self) -> list[Path]:
        return sorted((self.folder / "figures").glob("[!.]*.png"))


def collect(outputs: Path) -> list[Record]:
    """A record of every run that finished, failed or is under way, the newest first."""
    records = [record for folder in outputs.glob("[!.]*/*/[!.]*") if (record := read(folder))]
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    for group in groups.values():
        _tell_apart(group)
    return sorted(records, key=lambda r: (-r.when.timestamp() if r.when else 0.0, str(r.folder)))


def read(folder: Path) -> Record | None:
    """The record of a run's folder; of files that are damaged it says so. None where there is no run."""
    record = Record(folder, *_names(folder))
    try:
        result = _load(folder / "result.json")
        if result is not None:
            _read_finished(record, result)
        elif (state := _load(folder / "state.json")) is not None:
            _read_unfinished(record, state)
        else:
            return None
    except UNREADABLE as error:
        record.state, record.error = "unreadable", f"{type(error).__name__}: {error}"
    return record


def read_curves(record: Record, points: int) -> list[dict[str, float]]:
    """The rows of metrics.csv, at most `points`: several in a row become one that has the last value of each metric.

    Where the file is damaged the record is marked as unreadable, and there are none.
    """
    try:
        rows = read_metrics(record.folder)
        if not all("epoch" in row for row in rows):
            raise ValueError("no column epoch")
    except UNREADABLE as error:
        damage = f"metrics.csv is damaged: {error}"
        record.state, record.error = "unreadable", "\n".join(filter(None, [record.error, damage]))
        return []
    stride = math.ceil(len(rows) / points) or 1
    return [
        {name: value for row in rows[first : first + stride] for name, value in row.items()}
        for first in range(0, len(rows), stride)
    ]


def _names(folder: Path) -> tuple[str, str, str]:
    """Method, dataset and model as the folder's name has them: <paper>/<method>-<dataset>-<model>/<id>."""
    paper, name = folder.parts[-3:-1]
    method, dataset, model = [*name.rsplit("-", 2), "", ""][:3]
    return paper if method == paper else f"{paper}/{method}", dataset, model


def _load(path: Path) -> dict[str, Any] | None:
    """The JSON object, None where there is no file. Raises ValueError where it is not a whole one."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged: no JSON object")
    return content


def _read_finished(record: Record, result: dict[str, Any]) -> None:
    choices = {group: result["choices"][group] for group in ("method", "dataset", "model")}
    record.method, record.dataset, record.model = map(str, choices.values())
    record.metrics = {str(name): float(value) for name, value in result["metrics"].items()}
    record.seconds = float(sum(result["seconds"].values()))
    record.when = datetime.fromisoformat(result["finished"])
    record.seed, record.identity = result["seed"], result["identity"]
    names = ("host", "device", "platform", "versions", "git", "peak_memory")
    record.environment = {name: result[name] for name in names}
    record.state = "stale" if is_stale(result) else "finished"


def _read_unfinished(record: Record, state: dict[str, Any]) -> None:
    record.state, record.error = str(state["state"]), str(state.get("error", "")).strip()
    record.when = datetime.fromisoformat(state["time"])
    record.environment = {"host": state["host"]}
    config = record.folder / "config.yaml"
    if config.exists():
        try:
            record.identity = yaml.load(config.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise ValueError(f"config.yaml is damaged: {error}") from error
        record.seed = record.identity["seed"]


def _tell_apart(group: list[Record]) -> None:
    """Sets the settings of runs of one method, dataset and model: what not all of them share."""
    identities = [{key: record.identity.get(key) for key in IDENTITY_KEYS if key != "seed"} for record in group]
    for key, values in _differing(identities):
        for record, value in zip(group, values, strict=True):
            follows_seed = key.endswith(".seed") and value == record.seed
            if value is not None and not follows_seed:
                record.settings[key] = str(value)


def _differing(nodes: list[dict[str, Any]], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Each key of nested nodes that has several values, and every node's value, None where it has none."""
    for key in dict.fromkeys(key for node in nodes for key in node):
        values = [node.get(key) for node in nodes]
        known = [value for value in values if value is not None]
        if all(value == known[0] for value in known):
            continue
        if all(isinstance(value, dict) for value in known):
            yield from _differing([value or {} for value in values], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values
