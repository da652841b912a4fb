"""Launcher that runs a sweep in worker processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from runner.errors import UserError
from runner.sweeps.launchers.task import ONE_LINE, Task, execute_task


class Local:
    """Several runs at a time, each worker with its share of the cores. A worker that dies ends only its own run.

    One worker prints warnings and the progress of long runs; several write what their runs print to `worker<i>.log` in
    the launcher's folder.

    Args:
        workers: number of workers; None: as many as there are cores for, by the runs' `threads`.
        gpus: number of GPUs to hand out in turn, one per worker; 0: all workers see what this process sees.
    """

    def __init__(self, workers: int | None = None, gpus: int = 0) -> None:
        if (workers is not None and workers < 1) or gpus < 0:
            raise UserError(
                f"hydra.launcher.workers must be at least 1 and gpus at least 0, got workers={workers}, gpus={gpus}"
            )
        self.workers, self.gpus = workers, gpus

    def launch(self, tasks: Iterable[Task], folder: Path) -> Iterator[Task]:
        """Run the tasks and yield each one when it has ended. The next task is taken when a worker is free for it."""
        pending = iter(tasks)
        first = next(pending, None)
        if first is None:
            return
        count = self._count(tasks, first)
        pending = chain([first], pending)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the workers end too
        free = deque(range(count))
        workers: dict[int, tuple[BaseProcess, Connection]] = {}
        busy: dict[Connection, tuple[int, Task]] = {}
        try:
            while True:
                while free and (task := next(pending, None)):
                    i = free.popleft()
                    if i not in workers:
                        workers[i] = self._start(i, max(1, cores() // count), folder if count > 1 else None)
                    workers[i][1].send(task.overrides)
                    busy[workers[i][1]] = (i, task)
                if not busy:
                    return
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    i, task = busy.pop(connection)
                    try:
                        connection.recv()
                    except EOFError:
                        workers.pop(i)[0].join()
                    free.append(i)
                    yield task
        finally:
            for process, _ in workers.values():
                process.terminate() if busy else process.kill()
                process.join()

    def _count(self, tasks: Iterable[Task], first: Task) -> int:
        """Return the number of workers: no more than there are cores for, or tasks, if their number is known."""
        known = list(tasks) if isinstance(tasks, Sequence) else [first]
        count = self.workers or max(1, cores() // (max(task.run.cfg.threads for task in known) or cores()))
        return min(count, len(known)) if isinstance(tasks, Sequence) else count

    def _start(self, i: int, threads: int, folder: Path | None) -> tuple[BaseProcess, Connection]:
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        if folder is None:
            environment[ONE_LINE] = "1"
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(i % self.gpus)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        log_file = folder / f"worker{i}.log" if folder else None
        process = context.Process(target=serve, args=(theirs, environment, log_file), daemon=True)
        process.start()
        theirs.close()
        return process, ours


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(connection: Connection, environment: dict[str, str], log_file: Path | None) -> None:
    """Work as a worker: execute the runs whose overrides arrive, and answer with their exit codes.

    Args:
        connection: pipe to the sweep.
        environment: environment variables to set.
        log_file: file for what the runs print; None: this process's output.
    """
    os.environ.update(environment)
    if log_file:
        file = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
    try:
        while True:
            connection.send(execute_task(connection.recv()))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the sweep has ended
        sys.exit(0)
