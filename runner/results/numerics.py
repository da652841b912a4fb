"""Numerics of finished runs: device, instruction set, threads, precision and library versions.

They may change the last digits of a result, and a chaotic training by more, but they are no part of a run's id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from runner.errors import UserError
from runner.results.reductions import Measurements

UNKNOWN = "unknown"
Fingerprint = dict[str, str]


def fingerprint(result: Mapping[str, Any]) -> Fingerprint | None:
    """Return the numerics of a result.json as flat text; None if they were not recorded."""
    numerics = result.get("numerics")
    if not isinstance(numerics, Mapping):
        return None
    libraries = numerics.get("libraries")
    flat = {key: value for key, value in numerics.items() if key != "libraries"}
    flat |= libraries if isinstance(libraries, Mapping) else {}
    return {str(key): str(value) for key, value in flat.items()}


def describe(numerics: Fingerprint | None) -> str:
    """Return a fingerprint as one line."""
    if numerics is None:
        return UNKNOWN
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in numerics.items())


def count_fingerprints(runs: Sequence[Measurements]) -> list[tuple[Fingerprint | None, int]]:
    """Return the different fingerprints with their numbers of runs, the most frequent first, unknown last."""
    counts = Counter(None if run.numerics is None else tuple(sorted(run.numerics.items())) for run in runs)
    ordered = sorted(counts.items(), key=lambda item: (item[0] is None, -item[1]))
    originals = {tuple(sorted(run.numerics.items())): run.numerics for run in runs if run.numerics is not None}
    return [(None if key is None else originals[key], count) for key, count in ordered]


def differences(runs: Sequence[Measurements]) -> dict[str, list[str]]:
    """Return the keys in which the numerics of runs differ, each with its values.

    A run whose numerics are unknown differs from the others in the key `numerics`.
    """
    fingerprints = [numerics for numerics, _ in count_fingerprints(runs)]
    known = [numerics for numerics in fingerprints if numerics is not None]
    keys = dict.fromkeys(key for numerics in known for key in numerics)
    values = {key: list(dict.fromkeys(numerics.get(key, UNKNOWN) for numerics in known)) for key in keys}
    differing = {key: sorted(found) for key, found in values.items() if len(found) > 1}
    if known and len(known) < len(fingerprints):
        differing["numerics"] = ["known", UNKNOWN]
    return differing


def describe_differences(differing: Mapping[str, Sequence[str]]) -> str:
    """Return differences as one line, such as `threads (1, 2)`."""
    return ", ".join(f"{key.replace('_', ' ')} ({', '.join(values)})" for key, values in differing.items())


def most_frequent(runs: Sequence[Measurements]) -> Fingerprint:
    """Return the most frequent known fingerprint.

    Raises:
        UserError: no run has recorded its numerics.
    """
    for numerics, _ in count_fingerprints(runs):
        if numerics is not None:
            return numerics
    raise UserError("numerics=same: no finished run has recorded its numerics; rerun=true makes the runs again")


def numerics_notes(cells: Mapping[tuple[str, str], Sequence[Measurements]]) -> list[str]:
    """Return the notes on a table whose runs differ in their numerics.

    Args:
        cells: finished runs of each cell, by (row, column). Rows are compared within a column.
    """
    runs = [run for of_cell in cells.values() for run in of_cell]
    unknown = sum(run.numerics is None for run in runs)
    notes = [f"numerics of {unknown} of {len(runs)} runs are unknown: they were not recorded"] if unknown else []
    within: dict[str, list[str]] = {}
    for (row, column), of_cell in cells.items():
        if differing := differences(of_cell):
            within.setdefault(describe_differences(differing), []).append(f"{row} / {column}")
    notes += [f"numerics differ within the cells {'; '.join(places)}: {text}" for text, places in within.items()]
    between: dict[str, list[str]] = {}
    for column in dict.fromkeys(column for _, column in cells):
        of_column = [run for (_, other), of_cell in cells.items() if other == column for run in of_cell]
        if differing := differences(of_column):
            between.setdefault(describe_differences(differing), []).append(column)
    notes += [f"numerics differ between rows of {'; '.join(columns)}: {text}" for text, columns in between.items()]
    if within or between:
        notes.append("numerics=same leaves out the runs that differ from the most frequent numerics")
    return notes
