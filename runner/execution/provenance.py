"""Provenance of a result: code, data, versions, machine and the numerics that decide its last digits."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.config.address import Run

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("torch", "pytorch_lightning", "torch_geometric", "transformers", "wandb", "hydra", "numpy")
CODE = ("methods.", "datasets.")  # packages of the project whose code decides results
NUMERIC_LIBRARIES = ("torch", "numpy", "torch_geometric", "transformers")


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any]:
    """Return the commit of the code and whether files differ from it; None for both without git."""

    def git(*args: str) -> str | None:
        try:
            return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def code_hashes(run: Run) -> dict[str, str]:
    """Return the hash of every file of methods/ and datasets/ that a run depends on, by its path in the project.

    These are the files of the classes that its config names, and what they import, in functions too.
    """
    named = [text for text in _texts(run.identity) if text.startswith(CODE)]
    found: dict[str, str] = {}
    todo = [path for name in named for path in _files_of(name)]
    while todo:
        path = todo.pop()
        if path not in found and (content := _code(path)):
            found[path] = content[0]
            todo += [file for name in content[1] for file in _files_of(name)]
    return dict(sorted(found.items()))


def _files_of(name: str) -> list[str]:
    """Return the files of a dotted name, of a module or of something in one: the module and its packages."""
    parts, files = name.split("."), []
    for i in range(1, len(parts) + 1):
        place = Path(*parts[:i])
        files += [str(path) for path in (place.with_suffix(".py"), place / "__init__.py") if (ROOT / path).is_file()]
    return files


def code_hash(relative: str) -> str | None:
    """Return a short hash of a file's code without comments and docstrings; None if the file is gone."""
    content = _code(relative)
    return content[0] if content else None


@lru_cache(maxsize=4096)
def _code(relative: str) -> tuple[str, list[str]] | None:
    """Return the hash of a file's code, and the names of `CODE` that it imports; None if the file is gone."""
    path = ROOT / relative
    if not path.exists():
        return None
    tree = ast.parse(path.read_text())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node):
            node.body = node.body[1:]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]
    return digest, [name for name in imported if name.startswith(CODE)]


def mixed_code(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Return the hashes of a run that other code began: a file that has changed since has its hashes, joined by `+`."""
    made_by = {path: [*before.get(path, digest).split("+"), digest] for path, digest in now.items()}
    return {path: "+".join(dict.fromkeys(digests)) for path, digests in made_by.items()}


def is_stale(result: dict[str, Any]) -> bool:
    """Return whether other code than is here now has made the result, or a part of it."""
    return any(code_hash(path) != made_by for path, made_by in result["code"].items())


def changed_files(run: Run) -> list[Path]:
    """Return the files and folders that the run's config names and that have changed since its result was written.

    Paths may be relative to `paths.data` too. Folders are looked into two levels down, and the results of needed runs
    count as well.
    """
    finished = (run.folder / "result.json").stat().st_mtime
    named = {Path(root, text) for text in _texts(run.identity) if text for root in ("", run.cfg.paths.data)}
    named |= {needed.folder / "result.json" for needed in run.needs.values()}
    return sorted(path for path in named if os.path.exists(path) and _newest(path) > finished)


def _newest(path: Path) -> float:
    return max(p.stat().st_mtime for p in [path, *path.glob("*"), *path.glob("*/*")] if p.exists())


def _texts(node: Any) -> Iterator[str]:
    """Yield the texts in nested containers."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)


def staleness(run: Run, result: dict[str, Any]) -> str:
    """Return what has changed since a result was made, as a clause for a message; empty if nothing has."""
    code = ", by other code than is here now" if is_stale(result) else ""
    changed = ", ".join(map(str, changed_files(run)))
    return code + (f", on data that have changed since ({changed})" if changed else "")


def reset_peak_memory() -> None:
    """Forget the peak memory of the runs that this process executed before (Linux)."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory() -> dict[str, int]:
    """Return the peak memory since `reset_peak_memory`, in bytes: of the process, and of the GPU if it used one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak


def versions() -> dict[str, str]:
    """Return the versions of Python and of the imported libraries."""
    imported = {name: str(module.__version__) for name in VERSIONS if (module := sys.modules.get(name))}
    return {"python": platform.python_version()} | imported


def device_name(device: str) -> str:
    """Return the name of a GPU, or the device as it is."""
    return str(sys.modules["torch"].cuda.get_device_name(device)) if device.startswith("cuda") else device


def cpu_name() -> str:
    """Return the model of the CPU, such as `AMD EPYC 7B13`; the architecture where the system does not tell it."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def numerics(run: Run, device: str) -> dict[str, Any]:
    """Return the fingerprint of the numerics: what may change the last digits of a result, but not its id.

    Args:
        run: executed run.
        device: PyTorch's name of the device that it ran on.

    Returns:
        device, cpu (two models of one instruction set may differ), cpu_capability (instruction set that PyTorch chose),
        threads, precision, and library versions.
    """
    import torch

    installed = versions()
    return {
        "device": device_name(device),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": str(run.cfg.trainer.get("precision")),
        "libraries": {name: installed[name] for name in NUMERIC_LIBRARIES if name in installed},
    }
