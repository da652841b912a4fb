"""Layers that stay open by a rule instead of a learned gate (the paper's table 4). They stand in for `Gates`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.famus.meta import of_the_classifier


class LayerChoice(nn.Module):
    """What rules share: nothing is learned, and the classifier's tensors are always open.

    Attributes: always, names of the classifier's tensors; names, of those that may be open or closed, in order; budget,
    how many of these are open.
    """

    budget: int

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        names = [name for name, _ in network.named_parameters()]
        self.always = of_the_classifier(names)
        self.names = [name for name in names if name not in self.always]

    def chosen(self) -> list[str]:
        """Names of the open layers of this step."""
        raise NotImplementedError(f"{type(self).__name__} does not say which layers are open")

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layers' gradients by name -> 1 for each open layer; the others are closed."""
        one = gradients[self.always[0]].new_ones(())
        return dict.fromkeys(self.chosen(), one)

    def count_loss(self, opened: Mapping[str, Tensor]) -> Tensor | float:
        return 0.0


class FromBlock(LayerChoice):
    """The residual blocks from the one numbered `block` on (from 1), and what comes after them.

    Raises ValueError where the network has no residual blocks, or not so many.
    """

    def __init__(self, network: nn.Module, block: int) -> None:
        super().__init__(network)
        stages: Any = getattr(network, "stages", None)
        if stages is None:
            raise ValueError("method.gates.block needs a network with residual blocks: model=resnet32, wrn28_10, ...")
        blocks = [part for stage in stages for part in stage]
        if not 1 <= block <= len(blocks):
            raise ValueError(f"method.gates.block={block} is not among the {len(blocks)} blocks of the network")
        first = id(next(blocks[block - 1].parameters()))
        of_parameters = [id(p) for _, p in network.named_parameters()]
        self.opened = self.names[of_parameters.index(first) :]
        self.budget = len(self.opened)

    def chosen(self) -> list[str]:
        return self.opened


class RandomLayers(LayerChoice):
    """`layers` of the tensors, drawn anew in every step, all alike. Raises ValueError where there are not so many."""

    def __init__(self, network: nn.Module, layers: int) -> None:
        super().__init__(network)
        if not 0 <= layers <= len(self.names):
            raise ValueError(f"method.gates.layers={layers} is not among the {len(self.names)} layers of the network")
        self.budget = layers

    def chosen(self) -> list[str]:
        return [self.names[i] for i in torch.randperm(len(self.names))[: self.budget].tolist()]
