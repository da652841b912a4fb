"""Control: weights pruned at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.compression.pruning.weight_pruning import WeightPruning
from methods.compression.stage import Context


class RandomWeightPruning(WeightPruning):
    """Prune weights at random, as many as another criterion; arguments of `WeightPruning`."""

    def scores(self, network: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        """Return random numbers that follow from the seed."""
        generator = torch.Generator().manual_seed(context.seed)
        weights = {name: network.get_submodule(name).weight for name in names}
        return {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in weights.items()}
