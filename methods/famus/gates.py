"""Learned gates that select the layers through which the meta gradient flows (FaMUS, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax

from datasets.checks import check_choice, check_count, check_positive
from methods.famus.meta_gradient import classifier_names


def pool_gradient(gradient: Tensor) -> Tensor:
    """Average a layer's gradient over all dimensions but the first: (D, ...) -> (D,)."""
    return gradient if gradient.dim() == 1 else gradient.flatten(1).mean(1)


def standardize(gradient: Tensor, correction: int) -> Tensor:
    """Subtract the mean and divide by the standard deviation: (D,) -> (D,). A single value becomes 0.

    Args:
        gradient: pooled gradient (D,).
        correction: degrees of freedom that the standard deviation leaves out.
    """
    std = gradient.std(correction=correction if len(gradient) > 1 else 0)
    return (gradient - gradient.mean()) / (std + 1e-9)


class Gate(nn.Module):
    """Gate of one layer, open or closed by the layer's pooled gradient.

    The pooled gradient is standardized first, as in the published code; the paper does not mention it.

    Args:
        size: first dimension D of the layer's tensor.
        hidden_layers: number of fully connected layers of 128 units before the last; 1 in the paper, 2 in its code.
        temperature: temperature of the Gumbel-softmax, whose hard sample has a straight-through gradient.
        std_correction: degrees of freedom that the standard deviation leaves out: 0, or 1 as in the published code.
    """

    def __init__(self, size: int, hidden_layers: int = 1, temperature: float = 5.0, std_correction: int = 0) -> None:
        super().__init__()
        self.temperature, self.std_correction = temperature, std_correction
        layers: list[nn.Module] = []
        for i in range(hidden_layers):
            layers += [nn.Linear(size if i == 0 else 128, 128), nn.PReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 2))

    def forward(self, gradient: Tensor) -> Tensor:
        """Sample the gate: (D,) pooled gradient -> scalar 0 or 1 with a gradient."""
        z = standardize(gradient, self.std_correction)
        return gumbel_softmax(self.layers(z)[None], tau=self.temperature, hard=True)[0, 1]


class Gates(nn.Module):
    """Gates of a network's layers. The classifier's layers have none and are always open.

    Attributes:
        names: names of the layers that have a gate, in the order of the network.
        ungated: names of the classifier's layers.

    Args:
        network: network whose parameter tensors, in their order, are the layers; the last ones are the classifier's.
        budget: number of gates that should be open (K).
        eligible: number of last layers, the classifier's included, that may be open; those before are always closed.
            None: all layers. The published code has 15.
        hidden_layers: as in `Gate`.
        temperature: as in `Gate`.
        std_correction: as in `Gate`.

    Raises:
        ValueError: the budget exceeds the number of gates; or another number is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        budget: float = 4,
        eligible: int | None = None,
        hidden_layers: int = 1,
        temperature: float = 5.0,
        std_correction: int = 0,
    ) -> None:
        super().__init__()
        check_count("method.gates", eligible=eligible, hidden_layers=hidden_layers)
        check_positive("method.gates", temperature=temperature)
        check_choice("method.gates.std_correction", std_correction, (0, 1))
        named = list(network.named_parameters())
        self.ungated = classifier_names(name for name, _ in named)
        gated = [pair for pair in named[-(eligible or len(named)) :] if pair[0] not in self.ungated]
        if not 0 <= budget <= len(gated):
            raise ValueError(f"method.gates.budget={budget} is not in [0, {len(gated)}], the number of gates")
        self.budget = budget
        self.names = [name for name, _ in gated]
        self.gates = nn.ModuleList(Gate(p.shape[0], hidden_layers, temperature, std_correction) for _, p in gated)

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sample all gates.

        Args:
            gradients: gradients of the layers by name, without a graph.

        Returns:
            0 or 1 by name, for the layers that have a gate.
        """
        return {name: gate(pool_gradient(gradients[name])) for name, gate in zip(self.names, self.gates, strict=True)}

    def budget_loss(self, gates: Mapping[str, Tensor]) -> Tensor:
        """Return (sum of the gates - K)^2 (equation 10). The published code sums the last gate alone, by mistake."""
        return (torch.stack(list(gates.values())).sum() - self.budget) ** 2
