"""W&B logger that never fails a run, and delays it by a bounded time at most."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment

from runner.execution.careful import Careful, ThreadedCall

log = logging.getLogger(__name__)
INIT_SECONDS = 10  # for which a run waits at its start for the server to take it


class PatientWandbLogger(WandbLogger):
    """W&B logger that continues without W&B once W&B fails; the run's own files have everything that was logged.

    Args:
        wait_seconds: longest time to wait for uploads when the run ends.
        **settings: arguments of Lightning's WandbLogger.
    """

    def __init__(self, wait_seconds: float = 30.0, **settings: Any) -> None:
        seconds = float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS))
        super().__init__(settings=wandb.Settings(init_timeout=seconds), **settings)
        self._wandb_init.pop("anonymous", None)  # Lightning passes it on unasked, and W&B warns of it
        self.wait_seconds = wait_seconds
        self.careful = Careful("W&B")

    @property
    def experiment(self) -> Any:
        """W&B run; an offline one if the server refuses it, and one that does nothing if W&B cannot work at all."""
        if self.careful.lost:
            return DummyExperiment()
        try:
            return super().experiment
        except Exception as error:
            log.warning("W&B failed, the run is kept offline (scripts/wandb_sync.sh uploads it): %s", error)
            os.environ["WANDB_MODE"] = "offline"  # of the next runs of this process too, which would wait as long
        try:
            wandb.teardown()  # it still holds the run's id
            self._wandb_init["mode"] = "offline"
            return super().experiment
        except Exception as error:
            self.careful.lost = True
            log.warning("W&B cannot work offline either, the run continues without it: %s", error)
            return DummyExperiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, unless W&B has failed."""
        self.careful(lambda: super(PatientWandbLogger, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        """Log hyper-parameters, unless W&B has failed."""
        self.careful(lambda: super(PatientWandbLogger, self).log_hyperparams(params))

    def place(self) -> dict[str, str]:
        """Return where W&B has the run."""
        if self.careful.lost:
            return {"W&B": "failed; the run's own files have everything"}
        url = None if self._wandb_init.get("mode") == "offline" else getattr(self.experiment, "url", None)
        return {"W&B": str(url) if url else "offline; scripts/wandb_sync.sh uploads it"}

    def end(self, summary: dict[str, float], figures: Sequence[Path]) -> None:
        """Send the figures and the final metrics, and end the W&B run within `wait_seconds`.

        Args:
            summary: final metrics by name.
            figures: files of the figures.
        """

        def send() -> None:
            for figure in [path for path in figures if path.suffix == ".png"]:
                self.log_image(f"figures/{figure.stem}", [str(figure)])
            self.experiment.summary.update(summary)
            self.experiment.finish()

        self.careful(lambda: finish_within(send, self.wait_seconds))


def finish_within(action: Callable[[], Any], seconds: float) -> None:
    """Run W&B's uploads in a thread and wait for a bounded time; after that, end W&B's process.

    What was not uploaded by then stays in the run's folder `wandb/`.

    Args:
        action: function that uploads and ends the W&B run.
        seconds: longest time to wait.

    Raises:
        Exception: an error of `action`, if it ended in time.
    """
    call = ThreadedCall(action)
    if call.wait(seconds):
        call.value()
        return
    log.warning(
        "W&B did not take the run within %.0f s; its files are kept in wandb/ (scripts/wandb_sync.sh uploads them)",
        seconds,
    )
    kill_service()
    call.wait(5.0)


def kill_service() -> None:
    """End the process that uploads for W&B, so that neither a call nor the end of Python waits for it."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "wandb" in child.name() or any("wandb-core" in part for part in child.cmdline()):
                child.kill()
    with suppress(Exception, SystemExit):  # it fails without the process, but removes W&B's hook at the end of Python
        wandb.teardown(exit_code=1)
