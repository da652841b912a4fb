"""A real offline run, and a W&B server to send it to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scripts.wandb_stand_in import WandbStandIn

ROOT = Path(__file__).resolve().parents[2]
TINY = ("dataset=atlas", "dataset.fold=0", "model.hidden=8", "model.layers=2", "schedule.max_epochs=2")


@pytest.fixture
def server() -> Iterator[WandbStandIn]:
    server = WandbStandIn()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return program(*command, **environment), which runs a process in the project's root without a key for W&B."""

    def program(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and k != "HYDRA_FULL_ERROR"}
        path = f"{Path(sys.executable).parent}:{env['PATH']}"
        env |= {"PATH": path, "OMP_NUM_THREADS": "1", "NETRC": str(tmp_path / "no_netrc")} | environment
        return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)

    return program


@pytest.fixture(scope="session")
def offline_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the outputs folder of one finished run of graphnorm/table1 on embedded data, tracked offline."""
    outputs = tmp_path_factory.mktemp("outputs")
    command = [sys.executable, "-m", "runner", "experiment=graphnorm/table1", *TINY, f"paths.outputs={outputs}"]
    env = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=300)
    return outputs
