"""Study of optuna on disk, as the search and its trials open it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from runner.errors import UserError

NAME = "search"  # of the one study in a file


def import_optuna() -> Any:
    """Import optuna, and make it print less. Raises UserError if it is not installed or too old."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna needs optuna: pip install -c constraints.txt '.[search]'") from error
    if int(optuna.__version__.partition(".")[0]) < 4:
        raise UserError(f"hydra/sweeper=optuna needs optuna 4 or newer, not {optuna.__version__}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def storage_of(file: Path) -> Any:
    """Return optuna's storage in a file: a journal, to which several processes and machines can append."""
    journal = import_optuna().storages.journal
    return import_optuna().storages.JournalStorage(journal.JournalFileBackend(str(file)))


def load_study(file: Path, pruner: Any) -> Any:
    """Return the study in a file, with a pruner."""
    return import_optuna().load_study(study_name=NAME, storage=storage_of(file), pruner=pruner)


def make_pruner(name: str, startup: int, warmup: int) -> Any:
    """Return a pruner of optuna.

    Args:
        name: `median`, `hyperband` or `none`.
        startup: trials that must have ended before the median is known well enough.
        warmup: epochs before a trial can be pruned.
    """
    pruners = import_optuna().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=max(1, warmup))
    return pruners.NopPruner()
