"""Launchers of Hydra's own plugins, such as hydra-joblib-launcher: what is installed can be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from runner.config.compose import VERSION_BASE
from runner.config.place import CONF
from runner.sweeps.launchers.task import Task, execute_task


class Plugin:
    """Launcher of another package, which runs a batch of tasks and returns when all of them have ended.

    Args:
        overrides: overrides that choose and set the launcher.
        batch: tasks of a batch.
    """

    def __init__(self, overrides: list[str], batch: int) -> None:
        self.overrides, self.batch = overrides, batch

    def launch(self, tasks: Iterable[Task], folder: Path) -> Iterator[Task]:
        """Run the tasks and yield those of a batch when it has ended."""
        source = iter(tasks)
        while batch := list(islice(source, self.batch)):
            self._launch(batch, folder)
            yield from batch

    def _launch(self, batch: list[Task], folder: Path) -> None:
        from hydra.core.singleton import Singleton

        kept = Singleton.get_state()
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
                loader = GlobalHydra.instance().config_loader()
                overrides = [*batch[0].overrides, *self.overrides, f"hydra.sweep.dir='{folder}'"]
                cfg = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
                context = HydraContext(config_loader=loader, callbacks=_no_callbacks(cfg))
                launcher = Plugins.instance().instantiate_launcher(
                    hydra_context=context, task_function=run_task, config=cfg
                )
                launcher.launch([task.overrides for task in batch], initial_job_idx=0)
        finally:
            Singleton.set_state(kept)


def _no_callbacks(cfg: DictConfig) -> Any:
    from hydra._internal.callbacks import Callbacks

    return Callbacks(cfg)


def run_task(cfg: DictConfig) -> int:
    """Execute the run whose overrides Hydra has given to this process."""
    return execute_task(list(HydraConfig.get().overrides.task))
