"""TensorBoard, which like W&B never fails a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.careful import Careful
from runner.execution.loggers import short_values


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
