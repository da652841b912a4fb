"""Control: filters removed at random, as many in each layer as another criterion removes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.compression.pruning.channels import Unit
from methods.compression.pruning.l1_filter import L1FilterPruning
from methods.compression.stage import Context


class RandomFilterPruning(L1FilterPruning):
    """Remove filters at random; arguments of `L1FilterPruning`, so that the cost is the same."""

    def scores(self, network: nn.Module, units: Sequence[Unit], context: Context | None) -> list[Tensor]:
        """Return random numbers that follow from the seed."""
        generator = torch.Generator().manual_seed(context.seed if context else 0)
        return [torch.rand(unit.width, generator=generator) for unit in units]
