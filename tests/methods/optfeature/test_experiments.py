"""Every run of the paper's experiments has a method and a predictor that fit each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config.instantiate import instantiate
from runner.sweeps.sweep import plan

FOLDER = Path(__file__).parents[3] / "conf" / "experiment" / "optfeature"
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_an_experiment_can_be_set_up(name):
    _, tasks = plan([f"experiment=optfeature/{name}", "seed=0"])
    assert tasks
    for task in tasks:
        network = instantiate(task.run.cfg, "model", field_sizes=(5, 4, 3, 6, 2, 3, 4, 5, 2, 7))
        method = instantiate(task.run.cfg, "method", network=network)
        if method.selection is not None and method.selection.searched:
            assert method.search_epochs < task.run.cfg.schedule.max_epochs
