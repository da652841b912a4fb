"""First-order Taylor scores of filters (Molchanov et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_count
from methods.compression.pruning.channels import Unit
from methods.compression.pruning.filter_pruning import FilterPruning
from methods.compression.stage import Context


def taylor_scores(network: nn.Module, units: Sequence[Unit], batches: Any) -> list[Tensor]:
    """Return the first-order score of each filter: |mean over places of a dL/da|, a being its output.

    It is averaged over images, and divided by its L2 norm within the layer.

    Args:
        network: network, in eval mode.
        units: groups of channels; the output of the last norm (or of the producer) is scored.
        batches: batches of images and labels.
    """
    totals = [torch.zeros(unit.width) for unit in units]
    outputs: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            outputs[number] = output

        return hook

    handles = [
        (unit.norms[-1] if unit.norms else unit.producer).register_forward_hook(keep(number))
        for number, unit in enumerate(units)
    ]
    try:
        with torch.enable_grad():
            for batch in batches:
                loss = cross_entropy(network(batch.x), batch.y, reduction="sum")
                gradients = torch.autograd.grad(loss, [outputs[i] for i in range(len(units))])
                for number, gradient in enumerate(gradients):
                    product = (
                        (outputs[number] * gradient).detach().flatten(2).mean(2)
                        if gradient.dim() > 2
                        else (outputs[number] * gradient).detach()
                    )
                    totals[number] += product.abs().sum(0).cpu()
    finally:
        for handle in handles:
            handle.remove()
    return [total / total.norm().clamp(min=1e-12) for total in totals]


class TaylorFilterPruning(FilterPruning):
    """Remove the filters whose removal changes the loss least, to first order.

    Args:
        batches: training batches that measure the scores.
        **options: arguments of `FilterPruning`.
    """

    def __init__(self, batches: int = 10, **options: Any) -> None:
        super().__init__(**options)
        check_count("stage", batches=batches)
        self.batches = batches

    def scores(self, network: nn.Module, units: Sequence[Unit], context: Context) -> list[Tensor]:
        """Return the Taylor scores."""
        network.eval()
        moved = (type(b)(*(t.to(context.device) for t in b)) for b in context.few_batches(self.batches))
        return taylor_scores(network, units, moved)
