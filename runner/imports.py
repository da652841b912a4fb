"""Start-up that a run does not need, left out: a sweep pays it for every process."""

from __future__ import annotations

import sys
from types import ModuleType


def import_lightning() -> ModuleType:
    """pytorch_lightning, without the transformers that torchmetrics pulls in for two text metrics.

    Where transformers is loaded already, or pytorch_lightning is, nothing is left out.
    """
    if "transformers" not in sys.modules and "pytorch_lightning" not in sys.modules:
        from lightning_utilities.core.imports import RequirementCache

        check = RequirementCache._check_available

        def check_all_but_transformers(self: RequirementCache) -> None:
            if str(self.requirement).startswith("transformers"):
                self.available, self.message = False, "left out by runner.imports"
            else:
                check(self)

        RequirementCache._check_available = check_all_but_transformers  # type: ignore[method-assign]
        try:
            import pytorch_lightning
        finally:
            RequirementCache._check_available = check  # type: ignore[method-assign]
    import pytorch_lightning

    return pytorch_lightning
