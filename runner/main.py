"""Execute one run: the only place that instantiates DataModule, LightningModule and Trainer."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from runner.config import checks
from runner.config.address import Run, resolved
from runner.config.instantiate import instantiate
from runner.config.messages import as_user_error, stage_errors
from runner.errors import Preempted, Pruned, UserError, is_keyboard_interrupt
from runner.execution import provenance, record, slurm
from runner.execution.lightning_import import import_lightning
from runner.execution.run_lock import run_lock
from runner.execution.weights import load_weights
from runner.files import disk_is_full, write_json

log = logging.getLogger(__name__)

NOT_TRAINED_YET = "not_trained_yet.ckpt"  # stands for the checkpoint of a needed run, and never exists


def execute(run: Run) -> dict[str, Any]:
    """Return the result of a run: read it if the run is finished, else run it. Other processes wait meanwhile."""
    result, waited = record.read_result(run.folder), False
    anew = run.cfg.rerun and not slurm.restarts()  # a requeued job continues
    if result is None or anew:
        with run_lock(run.folder, wait=run.cfg.wait) as waited:
            record.put_back(run.folder)  # of an execution that was killed while it was set up
            result = record.read_result(run.folder)
            if result is None or (anew and not waited):
                return run_and_record(run, anew=anew and not waited)
    hint = "; another process has finished it" if waited else "; rerun=true runs it again"
    log.info("%s\n  finished%s%s", run.folder, provenance.staleness(run, result), hint)
    record.show(run.folder, result)
    return result


def run_and_record(run: Run, anew: bool = False) -> dict[str, Any]:
    """Run the needed runs, then the run itself. A failure is recorded in state.json and raised again.

    Args:
        run: run to execute; this process holds its lock.
        anew: whether to leave aside what an earlier execution has left. It is put back if the new one fails before
            its first stage.

    Returns:
        Content of result.json.
    """
    if anew:
        record.set_aside(run.folder)
    record.write_state(run.folder, "running")
    try:
        import_lightning()
        with as_user_error():
            checks.check_run(run.cfg)  # before hours are spent on needed runs
            check_before_needs(run)
        checkpoints = {argument: checkpoint_of(needed) for argument, needed in run.needs.items()}
        provenance.reset_peak_memory()
        result = run_stages(run, checkpoints)
    except BaseException as error:
        record.put_back(run.folder)
        if not disk_is_full(error, run.folder):
            record_failure(run, error)
            raise
        failure = UserError(f"no space is left for {run.folder}\nFree some space; the same command continues")
        record_failure(run, failure)
        raise failure from error
    record.remove_state(run.folder)
    record.show(run.folder, result)
    return result


def check_before_needs(run: Run) -> None:
    """Let a method, and those of the runs that it needs, refuse their settings before any of these runs is trained.

    Raises:
        ValueError: a method refuses.
    """
    unfinished = unfinished_needs(run)
    data: dict[str, Any] = {}  # by its settings: most of these runs have one data set
    for each in [*unfinished.values(), run] if unfinished else []:
        checks.check_run(each.cfg)
        settings = repr((resolved(each.cfg.dataset), each.cfg.paths.data, each.cfg.seed))
        if settings not in data:
            data[settings] = make_data(each.cfg)
        try_to_build(each, data[settings])


def unfinished_needs(run: Run) -> dict[str, Run]:
    """Return the runs that have to be trained before a run, and before those that it needs, by id."""
    found: dict[str, Run] = {}
    for needed in run.needs.values():
        if not record.read_result(needed.folder):
            found |= unfinished_needs(needed) | {needed.id: needed}
    return found


def try_to_build(run: Run, data: Any) -> None:
    """Build the method of a run whose needed runs have left no checkpoints yet.

    A method that reads a checkpoint when it is built is checked as far as it comes without it. Methods whose class has
    `check_before_needs = True` can be built without these checkpoints, and their `prepare(data)` says what else cannot
    work.

    Args:
        run: run whose method is built.
        data: DataModule of the run, set up.

    Raises:
        ValueError: the method refuses its settings or its data.
    """
    if getattr(get_object(run.cfg.method._target_), "check_before_needs", False):
        make_module(run.cfg, data, {}).prepare(data)
        return
    try:
        make_module(run.cfg, data, {name: needed.folder / NOT_TRAINED_YET for name, needed in run.needs.items()})
    except Exception as error:
        if NOT_TRAINED_YET not in str(error):
            raise


def record_failure(run: Run, error: BaseException) -> None:
    """Write into state.json why a run ended early, and requeue its job after a preemption."""
    pruned = isinstance(error, Pruned)
    state = "failed" if isinstance(error, Exception) and not pruned else "interrupted"
    message = str(error) if isinstance(error, UserError | Pruned) else f"{type(error).__name__}: {error}"
    if is_keyboard_interrupt(error):
        message = "stopped by Ctrl-C"
    elif isinstance(error, SystemExit):  # Lightning's, after SIGTERM
        message = str(error) or "stopped by SIGTERM"
    record.write_state(run.folder, state, error=message, mistake=isinstance(error, UserError), pruned=pruned)
    if isinstance(error, Preempted) and error.job:
        job, error.job = error.job, None  # the run that needs this one ends by the same error
        try:
            slurm.requeue(job)
        except (OSError, subprocess.SubprocessError) as failure:
            log.warning("job %s could not be requeued (%s): give the same command again", job, failure)


def checkpoint_of(run: Run) -> Path:
    """Return the checkpoint of a run that another one needs. Run it if the checkpoint is missing."""
    from runner.execution.checkpoints import checkpoint_for_others

    if "fit" not in run.cfg.stages:
        raise UserError(f"{run.name}, which this run needs, trains nothing: there is no checkpoint to take from it")
    checkpoint = checkpoint_for_others(run.folder)
    if record.read_result(run.folder) is None or checkpoint is None:
        log.info("first, a run that this one needs: %s", run.folder)
        with run_lock(run.folder, wait=run.cfg.wait):
            record.put_back(run.folder)
            checkpoint, result = checkpoint_for_others(run.folder), record.read_result(run.folder)
            if result is None or checkpoint is None:
                run_and_record(run, anew=result is not None)  # its checkpoint was not kept or is damaged
                checkpoint = checkpoint_for_others(run.folder)
    if checkpoint is None:
        raise UserError(f"{run.folder} left no checkpoint for the run that needs it")
    return checkpoint


def make_data(cfg: DictConfig) -> Any:
    """Instantiate the DataModule of a run, download or read its data and set it up."""
    data = instantiate(cfg, "dataset", root=cfg.paths.data, seed=cfg.seed, workers=cfg.loader.workers)
    data.prepare_data()
    data.setup()
    return data


def make_module(cfg: DictConfig, data: Any, checkpoints: dict[str, Path]) -> Any:
    """Instantiate the network and the LightningModule of a run.

    Args:
        cfg: config of the run.
        data: DataModule, set up; it gives the network its sizes.
        checkpoints: checkpoints of the needed runs, by the method's argument.
    """
    network = instantiate(cfg, "model", **data.dims)
    if cfg.compile:
        network.compile()
    module = instantiate(cfg, "method", network=network, **checkpoints)
    if cfg.init_from:
        load_weights(module, Path(cfg.init_from))
    return module


def run_stages(run: Run, checkpoints: dict[str, Path]) -> dict[str, Any]:
    """Instantiate data, module and Trainer, run the stages and record the result.

    Args:
        run: run to execute.
        checkpoints: checkpoints of the needed runs, by the method's argument.

    Returns:
        Content of result.json.
    """
    pl = import_lightning()  # slow, and needed only from here on
    from runner.execution import checkpoints as files
    from runner.execution import trainer as runner_trainer
    from runner.execution.figures import save_figures
    from runner.execution.loggers import finish_loggers, finish_wandb_on_error, make_loggers, places

    cfg, folder, started = run.cfg, run.folder, time.time()
    with runner_trainer.run_log(folder), finish_wandb_on_error():
        with as_user_error():
            record.write_config(run)
            runner_trainer.set_threads(cfg.threads)
            pl.seed_everything(cfg.seed, verbose=False)
            data = make_data(cfg)
            module = make_module(cfg, data, checkpoints)
            checks.check_optimization(module, cfg)
            if hasattr(module, "prepare"):  # a method may refuse the data before hours are spent
                module.prepare(data)
            loggers = make_loggers(run)
            trainer, recorder = runner_trainer.make_trainer(run, module, loggers)
            checks.check_processes(module, trainer)
        record.drop_earlier(folder)

        checks.warn_of_untrained(cfg, module, checkpoints)
        log.info("%s on %s: %s", run.name, trainer.strategy.root_device, folder)
        metrics: dict[str, float] = {}
        seconds = {"setup": time.time() - started}
        for stage in cfg.stages:
            started = time.time()
            if stage == "fit":
                with stage_errors():
                    trainer.fit(module, data, ckpt_path=files.checkpoint_to_resume(folder), weights_only=True)
                checks.check_trained(module, trainer, folder)
                seconds["fit"] = recorder.seconds
            else:
                best = files.checkpoint_to_test(folder)
                with stage_errors():
                    trainer.test(module, data, ckpt_path=best, weights_only=True, verbose=False)
                metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
                seconds[stage] = time.time() - started

        device = str(trainer.strategy.root_device)
        result = record.describe(run, metrics, seconds, trainer.world_size, device, recorder.code, places(loggers))
        if trainer.is_global_zero:
            figures = save_figures(module, folder, cfg.figures.format)
            write_json(folder / "result.json", result)  # before the tracker, which may hang
            finish_loggers(loggers, folder, metrics | result["costs"], figures)
            if not cfg.checkpoint.keep:
                files.remove_checkpoints(folder)
        trainer.strategy.barrier()
        return result
