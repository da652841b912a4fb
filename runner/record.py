"""What a run leaves on disk: result.json says that it is finished, state.json that it is under way or has failed."""

from __future__ import annotations

import ast
import csv
import hashlib
import logging
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner import slurm
from runner.address import Run, resolved
from runner.exclusive import rank
from runner.files import read_json, write_json, write_whole

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
PROGRESS = ("epoch", "step", "seconds")  # columns of metrics.csv that are no metrics
VERSIONS = ("torch", "pytorch_lightning", "torch_geometric", "transformers", "wandb", "hydra", "numpy")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, else None."""
    return read_json(folder / "result.json")


def write_state(folder: Path, state: str, **more: Any) -> None:
    """state: `running`, `interrupted` or `failed`."""
    if rank() > 0:
        return
    here = {"host": socket.gethostname(), "pid": os.getpid(), "job": slurm.job_id(), "time": now()}
    write_json(folder / "state.json", {"state": state} | here | more)


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z")


def remove_state(folder: Path) -> None:
    if rank() == 0:
        (folder / "state.json").unlink(missing_ok=True)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, one an epoch, without the empty cells; a line that was cut short is left out."""
    try:
        with open(folder / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    return [{k: float(v) for k, v in row.items() if v} for row in rows if None not in row.values()]


def clear(folder: Path) -> None:
    """Throws away what an earlier execution left; its lock file stays."""
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any]:
    """Commit of the code and whether files differ from it; Nones where there is no git."""

    def git(*args: str) -> str | None:
        try:
            return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def code_hashes() -> dict[str, str | None]:
    """Hash of every file of methods/ that this process has imported, by its path in the project."""
    modules = [module for name, module in sys.modules.items() if name.startswith("methods.")]
    relative = sorted(str(Path(module.__file__).relative_to(ROOT)) for module in modules if module.__file__)
    return {path: code_hash(path) for path in relative}


@lru_cache(maxsize=4096)
def code_hash(relative: str) -> str | None:
    """Short hash of what a file of the project does, comments and docstrings apart; None where it is gone."""
    path = ROOT / relative
    if not path.exists():
        return None
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def is_stale(result: dict[str, Any]) -> bool:
    """Was the result made by other code of its method than is here now?"""
    return any(code_hash(path) != made_by for path, made_by in result["code"].items())


def has_newer_data(run: Run) -> bool:
    """Is anything in the folder that `dataset.folder` names, two levels down, newer than the run's result?"""
    if not (named := run.cfg.dataset.get("folder")):
        return False
    made, root = (run.folder / "result.json").stat().st_mtime, Path(run.cfg.paths.data, named)
    return any(path.stat().st_mtime > made for path in [*root.glob("*"), *root.glob("*/*")])


def reset_peak_memory() -> None:
    """Forgets the largest memory of the runs that this process has made before (Linux)."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory() -> dict[str, int]:
    """Largest memory since `reset_peak_memory`, in bytes: of the process, and of the GPU where it used one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak


def choices(run: Run) -> dict[str, str | None]:
    """The chosen files of the groups that a reader asks for."""
    return {group: run.choices.get(group) for group in ("method", "dataset", "model", "experiment", "trainer")}


def describe(
    run: Run, metrics: dict[str, float], seconds: dict[str, float], world_size: int, device: str
) -> dict[str, Any]:
    """The content of result.json. seconds: wall time of each stage."""
    versions = {name: str(module.__version__) for name in VERSIONS if (module := sys.modules.get(name))}
    return {
        "id": run.id,
        "metrics": metrics,
        "choices": choices(run),
        "seed": run.cfg.seed,
        "seconds": seconds,
        "peak_memory": peak_memory(),
        "device": device if device == "cpu" else sys.modules["torch"].cuda.get_device_name(device),
        "processes": world_size,
        "threads": run.cfg.threads,
        "finished": now(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | versions,
        "git": git_state(),
        "code": code_hashes(),
        "identity": run.identity,
    }


def write_config(run: Run) -> None:
    """config.yaml: the whole config, resolved. Raises where an interpolation or a value is missing."""
    if rank() == 0:
        write_whole(run.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved(run.cfg))))


def show(folder: Path, result: dict[str, Any]) -> None:
    """Prints the metrics and where everything lies."""
    if rank() == 0:
        lines = [f"{name:<24} {value:.4f}" for name, value in result["metrics"].items()]
        lines += [f"{'files':<24} {folder}"]
        lines += [f"{'figure':<24} {figure}" for figure in sorted((folder / "figures").glob("*.png"))]
        log.info("  %s", "\n  ".join(lines))
