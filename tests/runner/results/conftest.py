"""Written results of the runs of a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config.address import Run
from runner.files import write_json

STORIES = [
    "experiment=esparse/stories",
    "method=esparse/dense,esparse/wanda,esparse/no_lbs,esparse",
    "seed=0,1,2",
    "method.pattern=2:4",
]
PPL = {"dense": [4.0] * 3, "wanda": [74.0, 75.0, 76.0], "no_lbs": [50.0, 40.0], "esparse": [46.0, 45.0, 48.0]}


@pytest.fixture
def stories(tmp_path: Path) -> list[str]:
    """Return the overrides of a table, and write the results of its runs, with the perplexities of PPL."""
    place = f"paths.outputs={tmp_path}"
    for name, values in PPL.items():
        for seed, value in enumerate(values):
            method = f"method={'esparse' if name == 'esparse' else f'esparse/{name}'}"
            run = Run.compose([STORIES[0], method, STORIES[3], f"seed={seed}", place])
            run.folder.mkdir(parents=True)
            metrics = {"test/ppl": value} | ({} if name == "dense" else {"test/retained": 0.7 + value / 1000})
            write_json(run.folder / "result.json", {"metrics": metrics, "seconds": {}, "code": {}})
    return [*STORIES, place]
