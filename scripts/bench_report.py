"""Time to write the report of many runs: results of a paper's experiments are drawn at random, then reported.

    python -m scripts.bench_report [--runs 1000] [--epochs 100]

Prints the seconds of the whole report by the clock and of the processor, and the part of them that reads the runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from itertools import chain, islice
from pathlib import Path

from runner.config.address import Run
from runner.execution import record
from runner.results.experiment_runs import runs_of
from scripts.arguments import positive
from scripts.report.__main__ import main as write_report
from scripts.report.collect import collect

EXPERIMENTS = ("graphnorm/table1", "graphnorm/table1_fair", "famus/digits", "f2at/digits", "esvae/digits")
METRICS = ("acc", "loss", "auc", "f1", *(f"{stage}_seconds" for stage in range(8)))  # below test/
SPLITS = ("train/loss", "train/acc", "train/grad_norm", "val/loss", "val/acc")


def some_runs(outputs: Path, number: int) -> list[tuple[Run, str]]:
    """Return runs of the experiments below a folder, each with the name of its experiment."""
    sweeps = (
        ((run, name) for run in runs_of([f"experiment={name}", f"paths.outputs={outputs}"])) for name in EXPERIMENTS
    )
    return list(islice(chain.from_iterable(sweeps), number))


def write_results(runs: list[tuple[Run, str]], epochs: int) -> None:
    """Write the folders of runs, one in a hundred of them failed.

    Args:
        runs: runs and their experiments.
        epochs: number of rows of each metrics.csv.
    """
    draw = random.Random(0)
    for number, (run, experiment) in enumerate(runs):
        run.folder.mkdir(parents=True)
        result = record.describe(run, {}, {"setup": 0.5, "fit": 60.0, "test": 0.2}, 1, "cpu", {})
        result["choices"]["experiment"] = experiment
        result["metrics"] = {f"test/{metric}": draw.random() for metric in METRICS}
        if number % 100 == 99:
            record.write_state(run.folder, "failed", error="Diverged: the training loss is nan at step 12 (epoch 3)")
        else:
            (run.folder / "result.json").write_text(json.dumps(result, indent=2))
        with open(run.folder / "metrics.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "step", "seconds", *SPLITS])
            writer.writerows([e, 4 * e, e / 7, *(draw.random() for _ in SPLITS)] for e in range(epochs))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=positive, default=1000, help="number of runs")
    parser.add_argument("--epochs", type=positive, default=100, help="epochs of each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        runs = some_runs(outputs, arguments.runs)
        write_results(runs, arguments.epochs)
        started = time.perf_counter()
        collect(outputs)
        print(f"{len(runs)} results read in {time.perf_counter() - started:.2f} s")
        started, processor = time.perf_counter(), time.process_time()
        write_report([f"paths.outputs={outputs}"])
        print(
            f"report: {time.perf_counter() - started:.2f} s, {time.process_time() - processor:.2f} s of the processor"
        )


if __name__ == "__main__":
    main()
