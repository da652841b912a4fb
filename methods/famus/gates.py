"""Gates that choose through which layers the meta gradient goes (FaMUS, section 4.1). A layer is a parameter tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax

from methods.famus.meta import of_the_classifier


def pooled(gradient: Tensor) -> Tensor:
    """A layer's gradient, averaged over all but its first dimension: (D, ...) -> (D,)."""
    return gradient if gradient.dim() == 1 else gradient.flatten(1).mean(1)


class Gate(nn.Module):
    """Open or closed, by a layer's pooled gradient (D,), which is standardised first.

    hidden: fully connected layers of 128 before the last: 1 in the paper, 2 in its code. temperature: of the
    Gumbel-softmax, whose hard sample passes its gradient straight through.
    """

    def __init__(self, size: int, hidden: int = 1, temperature: float = 5.0) -> None:
        super().__init__()
        self.temperature = temperature
        layers: list[nn.Module] = []
        for i in range(hidden):
            layers += [nn.Linear(size if i == 0 else 128, 128), nn.PReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 2))

    def forward(self, gradient: Tensor) -> Tensor:
        """(D,) -> 0 or 1, a scalar with a gradient."""
        z = (gradient - gradient.mean()) / (gradient.std(correction=0) + 1e-9)
        return gumbel_softmax(self.layers(z)[None], tau=self.temperature, hard=True)[0, 1]


class Gates(nn.Module):
    """A gate for each of the last `eligible` tensors of a network but the classifier's own, which are always open.

    Args:
        network: whose parameters, in order, are the layers; the last are the classifier's.
        budget: how many gates should be open (K). eligible: None for all; those before are always closed (the
            published code: 15). hidden, temperature: as in `Gate`.

    Raises ValueError where the budget exceeds the number of gates.
    """

    def __init__(
        self,
        network: nn.Module,
        budget: float = 4,
        eligible: int | None = None,
        hidden: int = 1,
        temperature: float = 5.0,
    ) -> None:
        super().__init__()
        named = list(network.named_parameters())
        self.always = of_the_classifier(name for name, _ in named)
        gated = [pair for pair in named[-(eligible or len(named)) :] if pair[0] not in self.always]
        if not 0 <= budget <= len(gated):
            raise ValueError(f"method.gates.budget={budget} is not among the {len(gated)} layers that have a gate")
        self.budget = budget
        self.names = [name for name, _ in gated]
        self.gates = nn.ModuleList(Gate(parameter.shape[0], hidden, temperature) for _, parameter in gated)

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by name, without a graph -> 0 or 1 by name, for the layers that have a gate."""
        return {name: gate(pooled(gradients[name])) for name, gate in zip(self.names, self.gates, strict=True)}

    def count_loss(self, opened: Mapping[str, Tensor]) -> Tensor:
        """(sum of the gates - K)^2 (equation 10). The published code looks at the last gate alone, by a mistake."""
        return (torch.stack(list(opened.values())).sum() - self.budget) ** 2
