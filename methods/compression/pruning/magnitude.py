"""Magnitude pruning (Han et al. 2015, arXiv 1506.02626), with the gradual schedule of Zhu and Gupta (2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from methods.compression.pruning.weight_pruning import WeightPruning
from methods.compression.stage import Context


class MagnitudePruning(WeightPruning):
    """Prune the weights of smallest absolute value; arguments of `WeightPruning`."""

    def scores(self, network: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        """Return the absolute values of the weights."""
        return {name: network.get_submodule(name).weight.detach().abs() for name in names}
