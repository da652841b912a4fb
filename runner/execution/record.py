"""Record of a run on disk: result.json once it is finished, state.json while it is under way or after a failure."""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner.config.address import Run, resolved
from runner.errors import UserError
from runner.execution import provenance, slurm
from runner.execution.run_lock import global_rank
from runner.files import read_json, write_json, write_whole

log = logging.getLogger(__name__)

PROGRESS = ("epoch", "step", "seconds")  # columns of metrics.csv that are not metrics
RESULT_KEYS = {"metrics", "seconds", "code"}  # a result.json without them is not one of a finished run


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the result of a finished run, else None."""
    result = read_json(folder / "result.json")
    return result if result is not None and result.keys() >= RESULT_KEYS else None


def write_state(folder: Path, state: str, **more: Any) -> None:
    """Write state.json.

    Args:
        folder: folder of the run.
        state: `running`, `interrupted` or `failed`.
        **more: further entries, such as the error's message.
    """
    if global_rank() > 0:
        return
    content = {"state": state, "host": socket.gethostname(), "pid": os.getpid(), "job": slurm.job_id(), "time": now()}
    path = folder / "state.json"
    try:
        write_json(path, content | more)
    except OSError:
        if not path.exists():
            raise
        with open(path, "r+") as file:  # a full disk still has the blocks of the old file
            file.write(json.dumps(content | more))
            file.truncate()


def now() -> str:
    """Return the local time, with its offset from UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z")


def remove_state(folder: Path) -> None:
    """Remove state.json: the run is finished."""
    if global_rank() == 0:
        (folder / "state.json").unlink(missing_ok=True)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.csv, one per epoch, without empty cells. A line that was cut short is left out.

    Raises:
        UserError: the file is not the CSV file that a run writes.
    """
    path = folder / "metrics.csv"
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [_numbers(row) for row in rows if None not in row.values() and None not in row]
    except FileNotFoundError:
        return []
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}\nRemove it, or run again with rerun=true") from error


def _numbers(row: dict[str, str]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in row.items() if value}
    return numbers | {name: int(numbers[name]) for name in ("epoch", "step") if name in numbers}


def clear(folder: Path) -> None:
    """Remove what an earlier execution left, except for the lock file."""
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def choices(run: Run) -> dict[str, Any]:
    """Return the chosen files of the groups that describe a run to a reader."""
    return {group: run.choices.get(group) for group in ("method", "dataset", "model", "experiment", "trainer")}


def costs(seconds: dict[str, float], memory: dict[str, int]) -> dict[str, float]:
    """Return what a run took, in the form of metrics: `time/<stage>` in seconds, `memory/<device>` in GiB (peak)."""
    times = {f"time/{stage}": value for stage, value in seconds.items()}
    return times | {f"memory/{device}": value / 2**30 for device, value in memory.items()}


def describe(
    run: Run, metrics: dict[str, float], seconds: dict[str, float], world_size: int, device: str
) -> dict[str, Any]:
    """Return the content of result.json.

    Args:
        run: executed run.
        metrics: final metrics by name.
        seconds: wall time of each stage.
        world_size: number of processes.
        device: PyTorch's name of the device.
    """
    memory = provenance.peak_memory()
    return {
        "id": run.id,
        "metrics": metrics,
        "costs": costs(seconds, memory),
        "choices": choices(run),
        "seed": run.cfg.seed,
        "seconds": seconds,
        "peak_memory": memory,
        "device": provenance.device_name(device),
        "processes": world_size,
        "threads": run.cfg.threads,
        "finished": now(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "versions": provenance.versions(),
        "numerics": provenance.numerics(run, device),
        "git": provenance.git_state(),
        "code": provenance.code_hashes(),
        "identity": run.identity,
    }


def write_config(run: Run) -> None:
    """Write config.yaml: the whole config, resolved. Raises an error if an interpolation or a value is missing."""
    if global_rank() == 0:
        write_whole(run.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved(run.cfg))))


def show(folder: Path, result: dict[str, Any]) -> None:
    """Log the metrics and the places of the run's files."""
    if global_rank() == 0:
        lines = [f"{name:<24} {value:.4f}" for name, value in result["metrics"].items()]
        lines += [f"{'files':<24} {folder}"]
        lines += [f"{'figure':<24} {figure}" for figure in sorted((folder / "figures").glob("*.png"))]
        log.info("  %s", "\n  ".join(lines))
