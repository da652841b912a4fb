"""Time to read many runs for the report: run folders are written, then collected.

    python -m scripts.bench_report [--runs 10000] [--epochs 100]

Prints the time to collect every result.json, which bounds how long the list of runs takes, and the time to read the
learning curves in addition.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from pathlib import Path

from runner.config.address import Run
from runner.execution import provenance, record
from scripts.report.collect import collect
from scripts.report.page import curves_of

METHODS = ("graphnorm", "graphnorm/batch", "graphnorm/instance", "graphnorm/layer")
METRICS = ("acc", "loss", "auc", "f1", *(f"{stage}_seconds" for stage in range(8)))  # below test/
SPLITS = ("train/loss", "train/acc", "train/grad_norm", "val/loss", "val/acc")


def write_runs(outputs: Path, runs: int, epochs: int) -> None:
    """Write the folders of runs, one in a hundred of them failed.

    Args:
        outputs: folder of the runs.
        runs: number of runs.
        epochs: number of rows of each metrics.csv.
    """
    draw = random.Random(0)
    template = Run.compose(["method=graphnorm", "dataset=mutag", f"paths.outputs={outputs}"])
    result = record.describe(template, {}, {"setup": 0.5, "fit": 60.0, "test": 0.2}, 1, "cpu")
    root = provenance.ROOT
    code = [str(path.relative_to(root)) for path in sorted(root.glob("methods/graphnorm/*.py"))]
    result["code"] = {path: provenance.code_hash(path) for path in code}
    for number in range(runs):
        method = METHODS[number % len(METHODS)]
        name = method.rpartition("/")[2]
        folder = outputs / "graphnorm" / f"{name}-mutag-gin" / f"{number:012x}"
        folder.mkdir(parents=True)
        result["id"], result["seed"], result["choices"]["method"] = folder.name, number, method
        result["identity"]["dataset"]["fold"] = number % 10
        result["metrics"] = {f"test/{metric}": draw.random() for metric in METRICS}
        if number % 100 == 99:
            record.write_state(folder, "failed", error="Diverged: the training loss is nan at step 12 (epoch 3)")
        else:
            (folder / "result.json").write_text(json.dumps(result, indent=2))
        with open(folder / "metrics.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "step", "seconds", *SPLITS])
            writer.writerows([e, 4 * e, e / 7, *(draw.random() for _ in SPLITS)] for e in range(epochs))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="number of runs")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        write_runs(outputs, arguments.runs, arguments.epochs)
        size = next(outputs.rglob("result.json")).stat().st_size
        for repeat in range(3):
            started = time.perf_counter()
            records = collect(outputs)
            seconds = time.perf_counter() - started
            print(f"{len(records)} runs of {size} bytes collected in {seconds:.2f} s (repeat {repeat})")
        started = time.perf_counter()
        curves_of(records)
        print(f"their curves of {arguments.epochs} epochs read in {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
