"""Import of PyTorch Lightning without start-up that a run does not need; a sweep pays it for every process."""

from __future__ import annotations

import sys
from types import ModuleType


def import_lightning() -> ModuleType:
    """Import pytorch_lightning without transformers, which torchmetrics imports for two text metrics.

    If transformers or pytorch_lightning is imported already, nothing is left out.
    """
    if "transformers" not in sys.modules and "pytorch_lightning" not in sys.modules:
        from lightning_utilities.core.imports import RequirementCache

        check = RequirementCache._check_available

        def check_all_but_transformers(self: RequirementCache) -> None:
            if str(self.requirement).startswith("transformers"):
                self.available, self.message = False, "left out by runner.execution.lightning_import"
            else:
                check(self)

        RequirementCache._check_available = check_all_but_transformers  # type: ignore[method-assign]
        try:
            import pytorch_lightning
        finally:
            RequirementCache._check_available = check  # type: ignore[method-assign]
    import pytorch_lightning

    return pytorch_lightning
