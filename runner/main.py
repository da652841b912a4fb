"""One command is one run: compose, look whether it is done, else set up, train, test, record."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import runner.help  # noqa: F401  (registers the help text's resolver)
from runner import record, slurm
from runner.address import Run
from runner.compose import CONF, VERSION_BASE
from runner.console import reader_may_leave
from runner.errors import Preempted, UserError, interrupted, told, user_errors
from runner.exclusive import exclusive
from runner.files import disk_is_full

log = logging.getLogger(__name__)


@reader_may_leave()
def main() -> None:
    """`python -m runner`. Exit codes: 0, 2 for a mistake of the user's, 1 for the rest."""
    if not any("=" in argument for argument in sys.argv[1:]):  # also for --help and --info
        sys.argv.insert(1, "experiment=default")
    full_error = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on to us
    try:
        if {"-m", "--multirun"} & set(sys.argv[1:]):
            from runner.sweep import sweep

            sys.exit(sweep(sys.argv[1:]))
        job()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if full_error:
            raise
        print(f"\n{told(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        interrupted()
    except SystemExit as error:
        if was_interrupted(error):
            interrupted()
        if type(error) is not SystemExit:  # Lightning's, after SIGTERM: ended, not finished
            sys.exit(128 + signal.SIGTERM)
        raise


def was_interrupted(error: BaseException) -> bool:
    """Is it Ctrl-C, or what Lightning makes of it?"""
    return isinstance(error, KeyboardInterrupt) or (
        type(error) is SystemExit and isinstance(error.__context__, KeyboardInterrupt)
    )


@hydra.main(config_path=str(CONF), config_name="config", version_base=VERSION_BASE)
def job(cfg: DictConfig) -> dict[str, float]:
    return execute(Run(cfg, dict(HydraConfig.get().runtime.choices)))["metrics"]


def execute(run: Run) -> dict[str, Any]:
    """The run's result: read where it is finished, else made. One process makes it, others wait for it."""
    result = record.read_result(run.folder)
    if result is None or run.cfg.rerun:
        with exclusive(run.folder, wait=run.cfg.wait) as waited:
            result = record.read_result(run.folder)
            if result is not None and run.cfg.rerun and not waited:
                record.clear(run.folder)
                result = None
            if result is None:
                return make(run)
    stale = ", by other code of its method than is here now" if record.is_stale(result) else ""
    if record.has_newer_data(run):
        stale += ", on data that have been written to since"
    log.info("%s\n  done already%s (rerun=true runs it again)", run.folder, stale)
    record.show(run.folder, result)
    return result


def make(run: Run) -> dict[str, Any]:
    """Makes what the run needs, then the run. A failure is written beside its files, and raised again."""
    checkpoints = {argument: checkpoint_of(needed) for argument, needed in run.needs.items()}
    record.write_state(run.folder, "running")
    record.reset_peak_memory()
    try:
        result = train(run, checkpoints)
    except BaseException as error:
        if disk_is_full(error, run.folder):
            raise UserError(f"no space is left for {run.folder}\nMake some; the same command goes on") from error
        state = "failed" if isinstance(error, Exception) else "interrupted"
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if was_interrupted(error):
            told = "stopped by Ctrl-C"
        record.write_state(run.folder, state, error=told, mistake=isinstance(error, UserError))
        if isinstance(error, Preempted) and error.job:
            slurm.requeue(error.job)
        raise
    record.remove_state(run.folder)
    record.show(run.folder, result)
    return result


def checkpoint_of(run: Run) -> Path:
    """The checkpoint of a run that another one needs, made where it is missing."""
    if record.read_result(run.folder) is None or run.checkpoint is None:
        log.info("first, a run that this one needs: %s", run.folder)
        with exclusive(run.folder, wait=True):
            if run.checkpoint is None and record.read_result(run.folder):
                record.clear(run.folder)  # finished, but its checkpoint was not kept
            if record.read_result(run.folder) is None:
                make(run)
    if run.checkpoint is None:
        raise UserError(f"{run.folder} left no checkpoint for the run that needs it: has it a fit stage?")
    return run.checkpoint


def train(run: Run, checkpoints: dict[str, Path]) -> dict[str, Any]:
    """Instantiates the DataModule, network, LightningModule and Trainer, runs the stages, records the result."""
    from runner.imports import import_lightning

    pl = import_lightning()  # heavy, and only now needed
    import torch

    from runner import lightning
    from runner.build import build
    from runner.contracts import check_processes, check_schedule, check_tasks
    from runner.figures import save_figures
    from runner.loggers import finish_logger, make_logger, tracked_run_ends

    cfg, folder = run.cfg, run.folder
    started = time.time()
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    with lightning.run_log(folder), tracked_run_ends():
        with user_errors():
            check_tasks(cfg)
            check_schedule(cfg)
            record.write_config(run)
            pl.seed_everything(cfg.seed, verbose=False)
            data = build(cfg, "dataset", root=cfg.paths.data, seed=cfg.seed, workers=cfg.loader.workers)
            data.prepare_data()
            data.setup()
            network = build(cfg, "model", **data.dims)
            if cfg.compile:
                network.compile()
            module = build(cfg, "method", network=network, **checkpoints)
            if hasattr(module, "prepare"):  # a method may look at the data before hours are spent
                module.prepare(data)
            logger = make_logger(run)
            trainer, recorder = lightning.make_trainer(run, module, logger)
            check_processes(module, trainer)

        log.info("%s on %s: %s", run.name, trainer.strategy.root_device, folder)
        metrics: dict[str, float] = {}
        seconds = {"setup": time.time() - started}
        for stage in cfg.stages:
            started = time.time()
            if stage == "fit":
                trainer.fit(module, data, ckpt_path=lightning.last_checkpoint(folder), weights_only=True)
                seconds["fit"] = recorder.seconds
            else:
                best = lightning.best_checkpoint(folder)
                trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
                metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
                seconds[stage] = time.time() - started

        result = record.describe(run, metrics, seconds, trainer.world_size, str(trainer.strategy.root_device))
        if trainer.is_global_zero:
            figures = save_figures(module, folder)
            finish_logger(logger, folder, metrics, figures)
            record.write_json(folder / "result.json", result)
            if not cfg.checkpoint.keep:
                lightning.remove_checkpoints(folder)
        trainer.strategy.barrier()
        return result
