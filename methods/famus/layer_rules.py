"""Rules that select the layers of the meta gradient without learning (FaMUS, table 4). They replace `Gates`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from methods.famus.meta_gradient import classifier_names


class LayerRule(nn.Module):
    """Base class of the rules. The classifier's layers are always open, and nothing is learned.

    Attributes:
        names: names of the layers that may be open or closed, in the order of the network.
        ungated: names of the classifier's layers.
        budget: number of open layers among `names`.

    Args:
        network: network whose parameter tensors are the layers.
    """

    budget: int

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        names = [name for name, _ in network.named_parameters()]
        self.ungated = classifier_names(names)
        self.names = [name for name in names if name not in self.ungated]

    def open_layers(self) -> list[str]:
        """Return the names of this step's open layers."""
        raise NotImplementedError(f"{type(self).__name__} must define open_layers()")

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return 1 for each open layer by name; layers that are missing are closed.

        Args:
            gradients: gradients of the layers by name; the classifier's are needed.
        """
        one = gradients[self.ungated[0]].new_ones(())
        return dict.fromkeys(self.open_layers(), one)

    def budget_loss(self, gates: Mapping[str, Tensor]) -> Tensor | float:
        """Return 0: a rule has nothing to learn."""
        return 0.0


class FromBlock(LayerRule):
    """Open the residual blocks from a given one to the last, and the layers after them.

    Args:
        network: network with residual blocks in `stages`.
        block: number of the first open block, from 1.

    Raises:
        ValueError: the network has no residual blocks, or fewer than `block`.
    """

    def __init__(self, network: nn.Module, block: int) -> None:
        super().__init__(network)
        stages: Iterable[Iterable[nn.Module]] | None = getattr(network, "stages", None)
        if stages is None:
            raise ValueError("method.gates.block needs a network with residual blocks: model=resnet32, wrn28_10, ...")
        blocks = [part for stage in stages for part in stage]
        if not 1 <= block <= len(blocks):
            raise ValueError(f"method.gates.block={block} is not in [1, {len(blocks)}], the number of blocks")
        first = id(next(blocks[block - 1].parameters()))
        parameter_ids = [id(p) for p in network.parameters()]
        self.opened = self.names[parameter_ids.index(first) :]
        self.budget = len(self.opened)

    def open_layers(self) -> list[str]:
        """Return the layers from the block on."""
        return self.opened


class RandomLayers(LayerRule):
    """Open a number of layers that are drawn uniformly in every step.

    Args:
        network: network whose parameter tensors are the layers.
        layers: number of open layers besides the classifier's.

    Raises:
        ValueError: the network has fewer layers.
    """

    def __init__(self, network: nn.Module, layers: int) -> None:
        super().__init__(network)
        if not 0 <= layers <= len(self.names):
            raise ValueError(f"method.gates.layers={layers} is not in [0, {len(self.names)}], the number of layers")
        self.budget = layers

    def open_layers(self) -> list[str]:
        """Return this step's random layers."""
        return [self.names[i] for i in torch.randperm(len(self.names))[: self.budget].tolist()]
