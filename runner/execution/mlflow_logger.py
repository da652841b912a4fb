"""MLflow, which like W&B never fails a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.careful import Careful
from runner.execution.loggers import short_values
from runner.files import read_json, write_json


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
    tracked = read_json(known) or {}

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
        run_id=tracked.get("run_id") if tracked.get("uri") == place else None,
    )
    careful(start, wait_seconds)
    return logger
