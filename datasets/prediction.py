"""Functions for the predictors of all kinds of data: find the given files and the network, write rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from datasets.files import atomic_write


def network_of(module: Any) -> Callable[[Any], Any]:
    """Return the network of a LightningModule that a test evaluates: its `eval_network`, else its `network`."""
    return getattr(module, "eval_network", None) or module.network


def files_below(paths: Iterable[Path], suffixes: Sequence[str] | set[str], what: str) -> list[Path]:
    """Return the given files, and those below the given folders that have one of the suffixes, in order.

    Args:
        paths: files and folders.
        suffixes: suffixes in lower case, such as `.png`.
        what: what the files hold, for the message.

    Raises:
        ValueError: a given file has another suffix, or there is no file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith("."))
            found += [p for p in inside if p.suffix.lower() in suffixes]
        elif path.suffix.lower() in suffixes:
            found.append(path)
        else:
            raise ValueError(f"{path} is none of the {what} that can be read: {' '.join(sorted(suffixes))}")
    if not found:
        raise ValueError(f"input= names no {what}: {' '.join(sorted(suffixes))}")
    return found


def unique_names(paths: Iterable[Path], name_of: Callable[[Path], str] = attrgetter("stem")) -> dict[Path, str]:
    """Return a name for the result of each file, so that no result overwrites another.

    It is the file's own name, with those of its folders before it where names repeat. Files of one folder that differ
    in their suffix only keep it (`a_ply`, `a_off`).

    Args:
        paths: files; one that occurs twice counts once.
        name_of: returns the name of a file without what its kind of file always has, such as a suffix.

    Raises:
        ValueError: names cannot be told apart.
    """
    own = {path: (path.absolute().parent, name_of(path)) for path in paths}
    siblings = Counter(own.values())
    parts = {
        path: (*folder.parts[1:], name if siblings[folder, name] == 1 else path.name.replace(".", "_"))
        for path, (folder, name) in own.items()
    }
    depth = dict.fromkeys(parts, 1)
    while True:
        names = {path: "_".join(whole[-depth[path] :]) for path, whole in parts.items()}
        counts = Counter(names.values())
        repeated = [path for path, name in names.items() if counts[name] > 1]
        if not repeated:
            return names
        if any(depth[path] > len(parts[path]) for path in repeated):
            raise ValueError(f"these files cannot be told apart by their names: {', '.join(map(str, repeated))}")
        depth |= {path: depth[path] + 1 for path in repeated}


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV file, whole or not at all, and return its path."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def probabilities_rows(
    names: Sequence[str], probabilities: Sequence[Sequence[float]], classes: Sequence[str]
) -> list[list[Any]]:
    """Return a row for each sample: name, predicted class, and the probability of each class."""
    return [
        [name, classes[max(range(len(row)), key=row.__getitem__)], *(f"{p:.6f}" for p in row)]
        for name, row in zip(names, probabilities, strict=True)
    ]
