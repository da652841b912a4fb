"""Record of a run on disk: result.json once it is finished, state.json while it is under way or after a failure."""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner.config.address import Run, resolved
from runner.config.help import has_node
from runner.config.place import CONF
from runner.errors import UserError
from runner.execution import provenance, slurm
from runner.execution.run_lock import global_rank
from runner.files import read_json, write_json, write_whole

log = logging.getLogger(__name__)

# Final metrics that people look for first, without `test/`: how good the result is, in the terms of each task.
HEADLINE = (
    "acc",
    "ppl",
    "dense_ppl",
    "zeroshot_acc",
    "auc",
    "iou",
    "fid",
    "mae",
    "rmse",
    "recon_loss",
    "fad_batch",
    ".*_acc",
    "chamfer_l1",
)
COST_UNITS = ("_seconds", "_gib", "_bytes")  # endings of metrics that are costs
MOST_METRICS = 14
PROGRESS = ("epoch", "step", "seconds")  # columns of metrics.csv that are not metrics
EARLIER = ".earlier"  # in a run's folder: what an earlier execution left, until a new one is set up
RESULT_KEYS = {"metrics", "seconds", "code"}  # a result.json without these mappings is not one of a finished run


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the result of a finished run, else None."""
    result = read_json(folder / "result.json") or {}
    return result if all(isinstance(result.get(key), dict) for key in RESULT_KEYS) else None


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


def set_aside(folder: Path) -> None:
    """Move what an earlier execution left out of the way of a new one."""
    if global_rank() > 0:
        return
    (folder / EARLIER).mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in (".lock", "job.json", EARLIER):  # job.json names the present job
            path.rename(folder / EARLIER / path.name)


def put_back(folder: Path) -> None:
    """Take back what was set aside, if anything was: the new execution has not come far enough to replace it."""
    if global_rank() > 0 or not (folder / EARLIER).exists():
        return
    for path in (folder / EARLIER).iterdir():
        _remove(folder / path.name)
        path.rename(folder / path.name)
    (folder / EARLIER).rmdir()


def drop_earlier(folder: Path) -> None:
    """Remove what was set aside."""
    if global_rank() == 0:
        _remove(folder / EARLIER)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def choices(run: Run) -> dict[str, Any]:
    """Return the chosen files of the groups that describe a run to a reader."""
    return {group: run.choices.get(group) for group in ("method", "dataset", "model", "experiment", "trainer")}


def costs(seconds: dict[str, float], memory: dict[str, int]) -> dict[str, float]:
    """Return what a run took, in the form of metrics: `time/<stage>` in seconds, `memory/<device>` in GiB (peak)."""
    times = {f"time/{stage}": value for stage, value in seconds.items()}
    return times | {f"memory/{device}": value / 2**30 for device, value in memory.items()}


def describe(
    run: Run,
    metrics: dict[str, float],
    seconds: dict[str, float],
    world_size: int,
    device: str,
    code: dict[str, str],
    tracked: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the content of result.json.

    Args:
        run: executed run.
        metrics: final metrics by name.
        seconds: wall time of each stage.
        world_size: number of processes.
        device: PyTorch's name of the device.
        code: hashes of the code that made the result.
        tracked: place of the run in each tracker.
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
        "tracked": tracked or {},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "versions": provenance.versions(),
        "numerics": provenance.numerics(run, device),
        "git": provenance.git_state(),
        "code": code,
        "identity": run.identity,
    }


def write_config(run: Run) -> None:
    """Write config.yaml: the whole config, resolved. Raises an error if an interpolation or a value is missing."""
    if global_rank() == 0:
        write_whole(run.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved(run.cfg))))


def headline(metrics: dict[str, float]) -> list[str]:
    """Return the names of the metrics that people look for first, in this order: see HEADLINE."""
    names = [name for name in metrics if name.startswith("test/")]
    places = {name: next((i for i, p in enumerate(HEADLINE) if re.fullmatch(p, name[5:])), None) for name in names}
    return sorted((name for name in names if places[name] is not None), key=lambda name: (places[name], name))


def show(folder: Path, result: dict[str, Any]) -> None:
    """Log the outcome of a run: headline metrics first, then the others, costs, places and the next command."""
    if global_rank() == 0:
        log.info("  %s", "\n  ".join(summary(folder, result)))


def summary(folder: Path, result: dict[str, Any]) -> list[str]:
    """Return the lines that `show` logs."""
    metrics, first = result["metrics"], headline(result["metrics"])
    others = [name for name in metrics if name not in first]
    others.sort(key=lambda name: name.endswith(COST_UNITS))  # costs last; the order is else the method's
    shown = [*first, *others][:MOST_METRICS]
    lines = [f"{name:<24} {metrics[name]:.4f}" for name in shown]
    if len(metrics) > len(shown):
        lines.append(f"{'':<24} and {len(metrics) - len(shown)} more in result.json")
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result["seconds"].items())
    peak = result.get("peak_memory") or {}
    memory = "".join(f", {v / 2**30:.2f} GiB{' of the GPU' * (name == 'gpu')}" for name, v in peak.items())
    lines.append(f"{'cost':<24} {times}{memory}, {result.get('device', '')}".rstrip(", "))
    lines.append(f"{'files':<24} {short_path(folder)}")
    figures = sorted({path.stem for path in (folder / "figures").glob("[!.]*")})
    if figures:
        lines.append(f"{'figures/':<24} {', '.join(figures)}")
    lines += [f"{name:<24} {place}" for name, place in (result.get("tracked") or {}).items()]
    lines.append(f"{'next':<24} {next_command(result)}")
    return lines


def short_path(path: Path) -> str:
    """Return a path relative to the working directory if it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def next_command(result: dict[str, Any]) -> str:
    """Return the command that shows a run among others: the table or figure of its experiment, else the report."""
    experiment = (result.get("choices") or {}).get("experiment")
    if experiment and (CONF / "experiment" / f"{experiment}.yaml").exists():  # not one of a folder of the user's
        for node in ("table", "figure"):
            if has_node(experiment, node):
                return f"python -m runner.{node} experiment={experiment}"
    return "python -m scripts.report"
