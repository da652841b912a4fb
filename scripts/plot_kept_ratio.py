"""Draw the test AUC of selection methods against the share of gates that they keep.

    python -m runner -m experiment=optfeature/kept_ratio
    python -m scripts.plot_kept_ratio [OUTPUTS] [--figure kept_ratio.png]

Reads every finished run below OUTPUTS/optfeature (default: outputs) that has an alias `<method>-<strength>`, as those
of the experiment have; the runs called `none` are the predictor without selection.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from methods.optfeature.figures import plot_auc_against_kept_ratio
from runner.execution.record import read_result

NAMES = {
    "random": "random pairs",
    "information": "mutual information",
    "field": "OptFeature-f",
    "value": "OptFeature-v",
    "hybrid": "OptFeature",
    "autofis": "AutoFIS",
    "normalised": "IPNN with AutoFIS's normalisation",
    "profit": "PROFIT",
    "optfs": "OptFS",
    "optinter": "OptInter",
}


def read_points(outputs: Path) -> tuple[dict[str, list[tuple[float, float]]], float | None]:
    """Return the mean kept ratio and AUC of each alias, by method, and the mean AUC without selection.

    Args:
        outputs: folder of the runs.
    """
    runs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path in sorted(outputs.glob("optfeature/*/*/result.json")):
        if (result := read_result(path.parent)) is None:
            print(f"{path} is damaged and left out", file=sys.stderr)
            continue
        metrics = result["metrics"]
        alias = yaml.safe_load((path.parent / "config.yaml").read_text()).get("alias")
        if alias and "test/auc" in metrics:
            runs[alias].append((metrics.get("test/kept_ratio", 1.0), metrics["test/auc"]))
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    reference = None
    for alias, pairs in runs.items():
        mean = statistics.fmean(pair[0] for pair in pairs), statistics.fmean(pair[1] for pair in pairs)
        if alias == "none":
            reference = mean[1]
        else:
            method = alias.partition("-")[0]
            points[NAMES.get(method, method)].append(mean)
    return dict(points), reference


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, nargs="?", default=Path("outputs"))
    parser.add_argument("--figure", type=Path, default=Path("kept_ratio.png"))
    given = parser.parse_args(arguments)
    points, reference = read_points(given.outputs)
    if not points:
        sys.exit(
            f"no finished run with an alias below {given.outputs}/optfeature: run experiment=optfeature/kept_ratio"
        )
    plot_auc_against_kept_ratio(points, reference).savefig(given.figure, dpi=200)
    print(given.figure)


if __name__ == "__main__":
    main()
