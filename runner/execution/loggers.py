"""Experiment trackers, made from conf/logger."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from runner.config.address import Run, resolved
from runner.config.instantiate import instantiate, parameters
from runner.errors import Pruned
from runner.execution.record import PROGRESS, choices, read_metrics

log = logging.getLogger(__name__)
LONGEST_TAG = 64  # characters that W&B accepts
LONGEST_NAME = 128  # of a project, group or run
REFUSED = "\\#?%:"  # characters that W&B refuses in names
PROBE_SECONDS = 10
LONGEST_PARAMETER = 500  # characters that are sent of a value of the config


def wandb_key_is_set() -> bool:
    """Return whether there is a key for Weights & Biases, in the environment or from `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return read_netrc_auth(host=wandb_settings().base_url) is not None


def wandb_settings() -> Any:
    """Return W&B's settings. Not by wandb.setup(): that starts a process, which child processes would share."""
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings


def wandb_mode() -> str:
    """Return how W&B is used: WANDB_MODE if it is given, else `online` with a key and a server that answers.

    Without either of them it is `offline`. Also makes W&B print less.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        wandb_settings()
    except ValueError as error:  # pydantic's, with a line for each wrong variable
        log.warning("W&B's settings are wrong, runs are kept offline and WANDB_BASE_URL is left out: %s", error)
        os.environ["WANDB_MODE"] = "offline"
        os.environ.pop("WANDB_BASE_URL", None)
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    return "online" if wandb_key_is_set() and wandb_server_answers(str(wandb_settings().base_url)) else "offline"


@lru_cache(maxsize=4)
def wandb_server_answers(url: str) -> bool:
    """Return whether W&B's server answers within PROBE_SECONDS.

    Each process asks once; processes that it starts inherit a negative answer as WANDB_MODE=offline.
    """
    import requests

    try:
        requests.get(url, timeout=PROBE_SECONDS)
    except requests.RequestException as error:
        log.warning("W&B's server %s does not answer: runs are kept offline; scripts/wandb_sync.sh uploads them", url)
        log.debug("%s", error)
        os.environ["WANDB_MODE"] = "offline"
        return False
    return True


def wandb_logger(
    run: Run, config: dict[str, Any], project: str, entity: str | None = None, wait_seconds: float = 30.0
) -> Any:
    """Make a W&B logger whose run id is the run's id, so that an interrupted run continues in the same W&B run.

    The W&B group is the experiment, the job type the paper.

    Args:
        run: run to track.
        config: resolved config, which W&B shows.
        project: W&B project.
        entity: W&B user or team; None for the key's own.
        wait_seconds: longest time to wait for uploads at the end of the run.
    """
    from runner.execution.wandb_logger import PatientWandbLogger

    return PatientWandbLogger(
        wait_seconds=wait_seconds,
        project=wandb_name(project),
        entity=entity,
        id=run.id,
        name=wandb_name(run.title),
        group=wandb_name(run.choices.get("experiment") or run.paper),
        job_type=run.paper,
        tags=wandb_tags([run.paper, run.name, *run.cfg.tags]),
        save_dir=str(run.folder),
        config=config,
        resume="allow",
        mode=wandb_mode(),
        log_model=False,
    )


def wandb_tags(tags: list[str]) -> list[str]:
    """Return the tags as W&B accepts them: not empty, each once, at most LONGEST_TAG characters."""
    for tag in tags:
        if len(tag) > LONGEST_TAG:
            log.warning("W&B accepts %d characters in a tag; %s... is shortened", LONGEST_TAG, tag[:20])
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags if tag))


def wandb_name(name: str) -> str:
    """Return a name as W&B accepts it: at most LONGEST_NAME characters, none of REFUSED."""
    accepted = "".join("_" if c in REFUSED else c for c in name)[:LONGEST_NAME]
    if accepted != name:
        log.warning("W&B does not accept the name %s; it is sent as %s", name[:80], accepted[:80])
    return accepted


def make_loggers(run: Run) -> list[Any]:
    """Make the loggers of conf/logger, one for each of its nodes.

    Those of the runner get the run and its whole config, with `choices`; any logger of Lightning can be a node too.
    """
    from pytorch_lightning.loggers import Logger

    own = {"run": run, "config": resolved(run.cfg) | {"choices": choices(run)}}
    loggers = []
    for name, node in run.cfg.logger.items():
        if node:
            taken = parameters(get_object(node._target_))
            more = {key: value for key, value in own.items() if key in taken}
            loggers.append(instantiate(run.cfg, f"logger.{name}", **more))
            if not isinstance(loggers[-1], Logger):
                raise ValueError(f"logger.{name} must be a Logger of pytorch_lightning, got {loggers[-1]!r}")
    return loggers


@contextmanager
def finish_wandb_on_error() -> Iterator[None]:
    """End the W&B run if the run breaks off, so that the next run of a sweep does not log into it."""
    try:
        yield
    except BaseException as error:
        wandb, code = sys.modules.get("wandb"), 0 if isinstance(error, Pruned) else 1
        if wandb and wandb.run:
            from runner.execution.wandb_logger import finish_within

            with suppress(Exception):  # its process may have ended before this one
                finish_within(lambda: wandb.finish(exit_code=code), seconds=30.0)
        raise


def places(loggers: Sequence[Any]) -> dict[str, str]:
    """Return where each tracker has the run, by the tracker's name."""
    found: dict[str, str] = {}
    for logger in loggers:
        if hasattr(logger, "place"):
            found |= logger.place()
    return found


def finish_loggers(loggers: Sequence[Any], folder: Path, final: dict[str, float], figures: list[Path]) -> None:
    """Send the figures and the summary to each tracker, and end the tracked runs.

    The summary has the last epoch's metrics, the final ones and the costs. Lightning passes on only some values of a
    metric that is logged by step, and the last epoch's may not be among them.

    Args:
        loggers: trackers of the run.
        folder: folder of the run.
        final: final metrics and costs by name.
        figures: files of the figures.
    """
    last_epoch = {k: v for row in read_metrics(folder)[-1:] for k, v in row.items() if k not in PROGRESS}
    for logger in loggers:
        if hasattr(logger, "end"):  # not one of Lightning's own, named by its _target_
            logger.end(last_epoch | final, figures)


def figure_run_id(experiment: str, path: Path) -> str:
    """Return the id of the W&B run that a figure of an experiment goes to."""
    return hashlib.sha256(f"{experiment}/{path.stem}".encode()).hexdigest()[:12]


def log_figure(node: Mapping[str, Any], path: Path, experiment: str, **config: Any) -> None:
    """Log a PNG to a W&B run that belongs to this figure alone; drawn again, it goes to the same run.

    A tracker that fails costs a warning, not the figure.

    Args:
        node: the config's node `logger`; without W&B in it nothing is logged.
        path: file of the figure.
        experiment: name of the experiment.
        **config: what W&B shows as the run's config.
    """
    node = node.get("wandb") or {}
    if not node.get("project"):
        return
    from runner.execution.wandb_logger import finish_within

    mode: Any = wandb_mode()
    import wandb

    def upload() -> None:
        tracked = wandb.init(
            project=wandb_name(node["project"]),
            entity=node["entity"],
            id=figure_run_id(experiment, path),
            name=wandb_name(f"{experiment}/{path.stem}"),
            group=wandb_name(experiment),
            job_type="figure",
            dir=path.parent,
            resume="allow",
            mode=mode,
            config={"experiment": experiment} | config,
        )
        tracked.log({f"figures/{path.stem}": wandb.Image(str(path))})
        tracked.finish()

    try:
        finish_within(upload, seconds=60.0)
    except Exception as error:
        log.warning("the figure was not logged to W&B: %s: %s", type(error).__name__, error)


def short_values(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config flat, as `group.key: value`, with values that a tracker can show."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= short_values(value, f"{name}.")
        elif isinstance(value, bool | int | float):
            flat[name] = value
        else:
            flat[name] = str(value)[:LONGEST_PARAMETER]
    return flat
