"""Configuration of the one-machine SLURM cluster, with stand-ins for SLURM's programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("cpus", [None, 64])
def test_declared_cores_may_differ_from_those_of_the_machine(cpus, tmp_path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("munged", "slurmctld", "slurmd", "sbatch", "sinfo", "scancel"):
        (programs / name).write_text("#!/bin/sh\n[ $(basename $0) = sinfo ] && echo idle\nexit 0\n")
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"} | ({"CPUS": str(cpus)} if cpus else {})
    folder = tmp_path / "cluster"
    command = ["scripts/slurm_cluster.sh", "up", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"export SLURM_CONF={folder}/slurm.conf" in done.stdout
    lines = (folder / "slurm.conf").read_text().splitlines()
    assert "SlurmdParameters=config_overrides" in lines
    (node,) = [line for line in lines if line.startswith("NodeName=")]
    assert f" CPUs={cpus or len(os.sched_getaffinity(0))} " in node
