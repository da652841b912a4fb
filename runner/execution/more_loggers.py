"""TensorBoard and MLflow, which like W&B never fail a run."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config.address import Run
from runner.errors import UserError
from runner.files import read_json, write_json

log = logging.getLogger(__name__)
LONGEST_PARAMETER = 500  # characters that are sent of a value of the config


class Careful:
    """Calls of a tracker. After the first one that fails there are no more; the run's own files have everything.

    Args:
        name: name of the tracker, for the warning.
    """

    def __init__(self, name: str) -> None:
        self.name, self.lost = name, False

    def __call__(self, action: Callable[[], Any], seconds: float | None = None) -> Any:
        """Call an action and return its value; None if it fails, or does not end within `seconds`."""
        if self.lost:
            return None
        try:
            return action() if seconds is None else _within(action, seconds)
        except Exception as error:
            self.lost = True
            log.warning("%s failed, the run continues without it: %s: %s", self.name, type(error).__name__, error)
            return None


def _within(action: Callable[[], Any], seconds: float) -> Any:
    results: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]


def tensorboard_logger(run: Run, config: dict[str, Any]) -> Any:
    """Make a logger to event files in `tensorboard/` of the run's folder.

    Args:
        run: run to track.
        config: resolved config, shown as text and as hyper-parameters.

    Raises:
        UserError: tensorboard is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            "logger=tensorboard needs tensorboard: pip install -c constraints.txt '.[tensorboard]'"
        ) from error
    from pytorch_lightning.loggers import TensorBoardLogger

    careful = Careful("TensorBoard")

    class Logger(TensorBoardLogger):
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            careful(lambda: TensorBoardLogger.log_metrics(self, dict(metrics), step))

        def place(self) -> dict[str, str]:
            """Return where TensorBoard finds the run."""
            return {"TensorBoard": f"tensorboard --logdir {run.cfg.paths.outputs}"}

        def end(self, summary: dict[str, float], figures: Sequence[Path]) -> None:
            """Write final metrics, hyper-parameters and figures, and close the files."""
            careful(lambda: _end_tensorboard(self, config, summary, figures))

    # the run's folder has its name, so that `tensorboard --logdir outputs` shows it
    return Logger(run.folder / "tensorboard", name="", version="")


def _end_tensorboard(logger: Any, config: dict[str, Any], summary: dict[str, float], figures: Sequence[Path]) -> None:
    import numpy as np
    from PIL import Image

    writer = logger.experiment
    for name, value in summary.items():
        writer.add_scalar(f"final/{name}", value, 0)
    for figure in figures:
        if figure.suffix == ".png":
            writer.add_image(f"figures/{figure.stem}", np.asarray(Image.open(figure).convert("RGB")), dataformats="HWC")
    logger.log_hyperparams(short_values(config), {f"final/{k}": v for k, v in summary.items()})
    writer.flush()
    writer.close()


def mlflow_logger(run: Run, config: dict[str, Any], uri: str | None = None, wait_seconds: float = 30.0) -> Any:
    """Make a logger to MLflow. An interrupted run continues in the same MLflow run.

    Args:
        run: run to track. The MLflow experiment is the run's experiment, else its paper.
        config: resolved config, which becomes the run's parameters.
        uri: address or folder of the tracking store; None: MLFLOW_TRACKING_URI, else `mlruns` below the outputs.
        wait_seconds: longest time to wait for MLflow at the start and at the end of the run.

    Raises:
        UserError: mlflow is not installed.
    """
    try:
        import mlflow
    except ImportError as error:
        raise UserError("logger=mlflow needs it: pip install -c constraints.txt '.[mlflow]'") from error
    from pytorch_lightning.loggers import MLFlowLogger
    from pytorch_lightning.loggers.logger import DummyExperiment

    del mlflow
    logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)  # it warns of a new experiment
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    place = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"file:{Path(run.cfg.paths.outputs).absolute() / 'mlruns'}"
    careful, known = Careful("MLflow"), run.folder / "mlflow.json"

    class Logger(MLFlowLogger):
        @property
        def experiment(self) -> Any:
            """Client of MLflow; one that does nothing once MLflow has failed."""
            found = careful(lambda: super(Logger, self).experiment)
            return DummyExperiment() if found is None else found

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            careful(lambda: MLFlowLogger.log_metrics(self, metrics, step))

        def place(self) -> dict[str, str]:
            """Return where MLflow has the run."""
            return {"MLflow": "failed; the run's own files have everything" if careful.lost else place}

        def end(self, summary: dict[str, float], figures: Sequence[Path]) -> None:
            """Send final metrics and figures, and end the MLflow run."""

            def send() -> None:
                MLFlowLogger.log_metrics(self, summary, None)
                for figure in figures:
                    self.experiment.log_artifact(self.run_id, str(figure), "figures")
                self.finalize("success")

            careful(send, wait_seconds)

        def finalize(self, status: str = "success") -> None:
            careful(lambda: MLFlowLogger.finalize(self, status))

    def start() -> None:
        logger.log_hyperparams(short_values(config))
        write_json(known, {"run_id": logger.run_id, "uri": place})

    logger = Logger(
        experiment_name=str(run.choices.get("experiment") or run.paper),
        run_name=run.title,
        tracking_uri=place,
        tags={"run": run.id, **dict.fromkeys(run.cfg.tags, "true")},
        run_id=(read_json(known) or {}).get("run_id"),
    )
    careful(start, wait_seconds)
    return logger


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
