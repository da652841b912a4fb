"""HTML page of the report: records, tables and figures, put into page.html.

The page's size is bounded, so that it opens quickly whatever the number of runs:
- Learning curves: at most MAX_POINTS rows a run, and MAX_ROWS of all runs together.
- Figures: those of experiments, and those of the newest finished run of each method, data set and model. Beyond
  MAX_FIGURE_BYTES they are links to their files. The PNG files of learning curves are left out, since the page draws
  the curves itself. Every run links to its folder and to all its figures, relative to the page.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from runner.execution.record import PROGRESS, now
from runner.results.numerics import describe, fingerprint
from runner.results.renderers.html import STYLE, fragment, templates
from scripts.report.collect import Record, read_curves
from scripts.report.tables import ShownTable

FOLDER = Path(__file__).parent
MAX_POINTS = 250
MAX_ROWS = 300_000
MAX_FIGURE_BYTES = 24 * 2**20
STATES = ("finished", "stale", "running", "interrupted", "failed", "unreadable")


@dataclass
class Figure:
    """Figure of the page.

    Args:
        name: name of the figure.
        owner: experiment or run that it belongs to.
        source: data URI, or path of the file relative to the page.
    """

    name: str
    owner: str
    source: str


def page(outputs: Path, out: Path, records: list[Record], tables: list[ShownTable]) -> str:
    """Return the HTML of the page.

    Args:
        outputs: folder of the runs.
        out: file of the page.
        records: records of the runs, the newest first.
        tables: tables to show.
    """
    curves = curves_of(records)
    script = (FOLDER / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    states = Counter(record.state for record in records)
    content = {
        "outputs": outputs,
        "written": now(),
        "style": Markup(STYLE.read_text() + (FOLDER / "style.css").read_text()),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "states": [(state, states[state]) for state in STATES if states[state]],
        "tables": [
            (shown, fragment(shown.table, f"table-{i}") if shown.table else "") for i, shown in enumerate(tables)
        ],
        "problems": [record for record in records if record.state in ("failed", "interrupted", "unreadable")],
        "figures": list(figures(outputs, out, records)),
        "environments": environments(records),
        "runs": [_entry(record, rows, out) for record, rows in zip(records, curves, strict=True)],
        "link": lambda path: link(path, out),
        "describe": describe,
    }
    return templates(FOLDER).get_template("page.html").render(content)


def curves_of(records: list[Record]) -> list[list[dict[str, float]]]:
    """Return the rows of metrics.csv of every run, thinned to the limits of the page."""
    points = max(2, min(MAX_POINTS, MAX_ROWS // max(1, len(records))))
    return [read_curves(record, points) for record in records]


def figures(outputs: Path, out: Path, records: list[Record]) -> Iterator[Figure]:
    """Yield the figures of experiments, then those that runs drew themselves."""
    left = MAX_FIGURE_BYTES
    for path, owner in [*_of_experiments(outputs), *_of_newest(records)]:
        image = path.read_bytes() if (fits := path.stat().st_size <= left) else b""
        left -= len(image)
        source = "data:image/png;base64," + base64.b64encode(image).decode() if fits else link(path, out)
        yield Figure(path.stem, owner, source)


def _of_experiments(outputs: Path) -> Iterator[tuple[Path, str]]:
    folder = outputs / "figures"
    for path in sorted(folder.rglob("*.png")):
        if "wandb" not in path.parts:
            yield path, str(path.parent.relative_to(folder))


def _of_newest(records: list[Record]) -> Iterator[tuple[Path, str]]:
    newest = {record.group: record for record in reversed(records) if record.is_finished}
    for group, record in sorted(newest.items()):
        for path in record.figures:
            if not path.name.startswith("curve_"):
                yield path, " ".join([*group, *_settings(record), f"seed={record.seed}"])


def environments(records: list[Record]) -> list[dict[str, Any]]:
    """Return groups of finished runs with the same code, versions, numerics and machine, the newest first."""
    groups: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.is_finished:
            known = {key: record.environment[key] for key in ("git", "versions", "platform", "device", "host")}
            known["numerics"] = fingerprint(record.environment)
            group = groups.setdefault(repr(known), known | {"runs": 0, "last": record.time})
            group["runs"] += 1
            group["first"] = record.time
    return list(groups.values())


def link(path: Path, out: Path) -> str:
    """Return a path as an address relative to the page."""
    return quote(Path(os.path.relpath(path, out.parent)).as_posix())


def _settings(record: Record) -> list[str]:
    """Return settings such as `fold=3`: the last part of each key, or the whole key if two end alike."""
    last = Counter(key.rpartition(".")[2] for key in record.settings)
    shown = {key: short if last[short := key.rpartition(".")[2]] == 1 else key for key in record.settings}
    return [f"{shown[key]}={value}" for key, value in record.settings.items()]


def _entry(record: Record, rows: list[dict[str, float]], out: Path) -> dict[str, Any]:
    """Return a run as page.js reads it, without empty entries. `time` is in seconds since 1970."""
    names = dict.fromkeys(name for row in rows for name in row)
    environment = record.environment
    entry = {
        "id": record.folder.name,
        "method": record.method,
        "dataset": record.dataset,
        "model": record.model,
        "settings": ", ".join(_settings(record)),
        "seed": record.seed,
        "state": record.state,
        "metrics": {name: _short(value) for name, value in record.metrics.items()},
        "seconds": record.seconds and _short(record.seconds),
        "time": record.time and record.time.timestamp(),
        "error": record.error,
        "folder": link(record.folder, out),
        "figures": {path.name: link(path, out) for path in record.figures},
        "machine": ", ".join(str(environment[key]) for key in ("host", "device") if key in environment),
        "commit": _commit(environment),
        "numerics": describe(numerics) if (numerics := fingerprint(environment)) else "",
        "memory": environment.get("peak_memory"),
        "curves": {name: [_short(row.get(name)) for row in rows] for name in names if _is_drawn(name)},
    }
    return {key: value for key, value in entry.items() if value not in (None, "", {}, [])}


def _is_drawn(name: str) -> bool:
    return "/" in name or name in PROGRESS


def _commit(environment: dict[str, Any]) -> str:
    git = environment.get("git") or {}
    return str(git["commit"])[:9] + (" (with changes)" if git.get("dirty") else "") if git.get("commit") else ""


def _short(value: float | None) -> float | str | None:
    """Round to five significant digits. NaN and infinities become text, since JSON has none."""
    if value is None:
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)
