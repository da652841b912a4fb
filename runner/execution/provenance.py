"""Provenance of a result: code, data, versions, machine and the numerics that decide its last digits."""

from __future__ import annotations

import ast
import hashlib
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.config.address import Run

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("torch", "pytorch_lightning", "torch_geometric", "transformers", "wandb", "hydra", "numpy")
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


def code_hashes() -> dict[str, str | None]:
    """Return the hash of every file of methods/ that this process has imported, by its path in the project."""
    modules = [module for name, module in sys.modules.items() if name.startswith("methods.")]
    relative = sorted(str(Path(module.__file__).relative_to(ROOT)) for module in modules if module.__file__)
    return {path: code_hash(path) for path in relative}


@lru_cache(maxsize=4096)
def code_hash(relative: str) -> str | None:
    """Return a short hash of a file's code without comments and docstrings; None if the file is gone."""
    path = ROOT / relative
    if not path.exists():
        return None
    tree = ast.parse(path.read_text())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def is_stale(result: dict[str, Any]) -> bool:
    """Return whether the result was made by other code of its method than is here now."""
    return any(code_hash(path) != made_by for path, made_by in result["code"].items())


def has_newer_data(run: Run) -> bool:
    """Return whether anything in `dataset.folder`, two levels down, is newer than the run's result."""
    if not (folder := run.cfg.dataset.get("folder")):
        return False
    finished, root = (run.folder / "result.json").stat().st_mtime, Path(run.cfg.paths.data, folder)
    return any(path.stat().st_mtime > finished for path in [*root.glob("*"), *root.glob("*/*")])


def staleness(run: Run, result: dict[str, Any]) -> str:
    """Return what has changed since a result was made, as a clause for a message; empty if nothing has."""
    code = ", by other code of its method than is here now" if is_stale(result) else ""
    return code + (", on data that have changed since" if has_newer_data(run) else "")


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


def numerics(run: Run, device: str) -> dict[str, Any]:
    """Return the fingerprint of the numerics: what may change the last digits of a result, but not its id.

    Args:
        run: executed run.
        device: PyTorch's name of the device that it ran on.

    Returns:
        device, cpu_capability (instruction set that PyTorch chose), threads, precision, and library versions.
    """
    import torch

    installed = versions()
    return {
        "device": device_name(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": str(run.cfg.trainer.get("precision")),
        "libraries": {name: installed[name] for name in NUMERIC_LIBRARIES if name in installed},
    }
