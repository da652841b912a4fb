"""Time that a large sweep spends on each run that is already finished.

    python -m scripts.bench_sweep [--runs 1000]

Composes, addresses and looks up every run of a sweep of which nine in ten are finished (results of realistic size in a
temporary folder) in this process; then asks for the finished sweep by `python -m runner -m`. The baseline is what
Hydra's own sweeper does before each run: composing its config.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from runner.config.compose import compose
from runner.files import write_json
from runner.sweeps.launchers.task import Task
from runner.sweeps.run_status import run_statuses
from runner.sweeps.sweep import plan
from scripts.arguments import positive

ROOT = Path(__file__).resolve().parents[1]
RESULT = {
    "metrics": {f"test/metric_{i}": i / 7 for i in range(12)},
    "choices": {},
    "seconds": {"setup": 1.0, "fit": 100.0, "test": 1.0},
    "code": {f"methods/part_{i}.py": "0123456789ab" for i in range(20)},
    "versions": {f"package_{i}": "1.2.3" for i in range(8)},
    "identity": {f"key_{i}": {f"inner_{j}": j for j in range(10)} for i in range(10)},
}


def write_results(tasks: Sequence[Task]) -> None:
    """Write the result of each run."""
    for task in tasks:
        task.run.folder.mkdir(parents=True)
        write_json(task.run.folder / "result.json", RESULT)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=positive, default=1000, help="number of runs, a multiple of ten")
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as outputs:
        common = ["experiment=graphnorm/table1", "dataset=mutag", "method=graphnorm", f"paths.outputs={outputs}"]
        overrides = [*common, "dataset.fold=range(10)", f"seed=range({count // 10})"]

        started = time.perf_counter()
        _, tasks = plan(overrides)
        composing = time.perf_counter() - started
        finished = len(tasks) * 9 // 10
        write_results(tasks[:finished])
        started = time.perf_counter()
        statuses = run_statuses([task.run for task in tasks])
        looking_up = time.perf_counter() - started
        assert sum(status.state == "finished" for status in statuses) == finished

        started = time.perf_counter()
        few = tasks[:10]
        for task in few:
            compose([*task.overrides, f"hydra.job.name={task.run.id}"])  # a value that Hydra composes
        baseline = (time.perf_counter() - started) / len(few)

        write_results(tasks[finished:])
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "runner", "-m", *overrides], cwd=ROOT, check=True, capture_output=True)
        command = time.perf_counter() - started

    ours = (composing + looking_up) / len(tasks)
    print(f"{len(tasks)} runs, {finished} of them finished")
    print(f"compose and address   {1e3 * composing / len(tasks):7.2f} ms a run")
    print(f"look up               {1e3 * looking_up / len(tasks):7.2f} ms a run")
    print(
        f"both                  {1e3 * ours:7.2f} ms a run, {baseline / ours:.0f} times faster than Hydra's composition"
    )
    print(f"Hydra's composition   {1e3 * baseline:7.2f} ms a run")
    print(f"the whole command     {1e3 * command / len(tasks):7.2f} ms a run, all of them finished")


if __name__ == "__main__":
    main()
