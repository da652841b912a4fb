"""Launcher that runs a sweep as one array of SLURM jobs, by submitit."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runner.errors import UserError
from runner.execution import slurm
from runner.files import write_json
from runner.sweeps.launchers.task import Task, execute_task

log = logging.getLogger(__name__)
SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")
LARGEST_ARRAY = 1000  # what SLURM allows by default


class Slurm:
    """Array of SLURM jobs, one per run.

    Args:
        submitit_folder: ignored; the launcher's files lie in the sweep's folder.
        max_num_timeout: number of restarts after which a job that meets its time limit is given up.
        **parameters: arguments of hydra-submitit-launcher's submitit_slurm.
    """

    queues = True  # `launch` does not wait for the jobs

    def __init__(self, submitit_folder: str, max_num_timeout: int, **parameters: Any) -> None:
        self.restarts, self.parameters = max_num_timeout, parameters

    def launch(self, tasks: Sequence[Task], folder: Path) -> Iterable[Task]:
        """Submit the tasks; job.json in each run's folder names its job.

        Raises:
            UserError: there is no SLURM, or it refuses the array.
        """
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError(
                "hydra/launcher=slurm needs SLURM, and there is no sbatch and srun on this machine.\n"
                "Start the sweep on a node of a cluster; scripts/slurm_cluster.sh makes one of this machine;\n"
                "hydra/launcher=local runs several at a time here."
            )
        import submitit

        executor = submitit.AutoExecutor(folder=folder / "%j", cluster="slurm", slurm_max_num_timeout=self.restarts)
        given = {k: v for k, v in self.parameters.items() if v is not None}
        executor.update_parameters(**{k if k in SHARED else f"slurm_{k}": v for k, v in given.items()})
        for start in range(0, len(tasks), LARGEST_ARRAY):
            part = tasks[start : start + LARGEST_ARRAY]
            try:
                jobs = executor.map_array(Job(self.restarts), [task.overrides for task in part])
            except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                raise UserError(f"SLURM refuses the jobs: {error}") from error
            for task, job in zip(part, jobs, strict=True):
                task.run.folder.mkdir(parents=True, exist_ok=True)
                write_json(task.run.folder / "job.json", {"job": job.job_id, "log": str(job.paths.stdout)})
            array = jobs[0].job_id.partition("_")[0]
            log.info("submitted as job %s (scancel %s ends it)", array, array)
        return ()


class Job:
    """Function that a SLURM job calls with the overrides of its run.

    Args:
        limit: number of restarts by the time limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, overrides: list[str]) -> None:
        """Execute the run. The process exits with the run's exit code."""
        # Not submitit's way to continue: the run saves itself and requeues its job (runner/execution/preemption.py).
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["RUNNER_RESTARTS"] = str(self.limit)
        again = ["rerun=false"] if slurm.restarts() else []
        if code := execute_task([*overrides, "wait=true", *again]):
            sys.exit(code)
