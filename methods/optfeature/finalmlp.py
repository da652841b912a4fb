"""FinalMLP (Mao et al. 2023): two perceptrons on gated embeddings, joined by a bilinear fusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datasets.checks import check_count, check_not_negative, check_widths
from methods.optfeature.network import CTRNetwork, perceptron


class FeatureGate(nn.Module):
    """Factors in (0, 2) of all components of the embeddings, from a learnt context vector.

    With no context field given, the context is a constant: the gates weigh components alike for all rows.

    Args:
        dim: length of the context.
        width: number of components.
        hidden: width of the hidden layer.
    """

    def __init__(self, dim: int, width: int, hidden: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(1, dim))
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated components, (B, width).

        Args:
            x: concatenated embeddings, (B, width).
        """
        return x * 2 * self.mlp(self.context)


class BilinearFusion(nn.Module):
    """Fusion b + w_x . x + w_y . y + sum_h x_h^T W_h y_h of two outputs that are cut into heads.

    Args:
        first: length of x.
        second: length of y.
        heads: number of heads; divides both lengths.
    """

    def __init__(self, first: int, second: int, heads: int) -> None:
        super().__init__()
        if first % heads or second % heads:
            raise ValueError(f"model.heads={heads} must divide the last widths {first} and {second}")
        self.heads = heads
        self.linear_first, self.linear_second = nn.Linear(first, 1), nn.Linear(second, 1)
        self.weight = nn.Parameter(torch.empty(heads, first // heads, second // heads))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the fused logits, (B,).

        Args:
            x: output of the first stream, (B, first).
            y: output of the second stream, (B, second).
        """
        x_heads, y_heads = x.unflatten(1, (self.heads, -1)), y.unflatten(1, (self.heads, -1))
        bilinear = torch.einsum("bhi,hij,bhj->b", x_heads, self.weight, y_heads)
        return self.linear_first(x).squeeze(1) + self.linear_second(y).squeeze(1) + bilinear


class FinalMLP(CTRNetwork):
    """Two streams over the embeddings, each with a gate of its own, and their bilinear fusion.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        hidden_first: widths of the first perceptron.
        hidden_second: widths of the second perceptron.
        gate_hidden: width of the hidden layer of the gates; 0: no gates.
        heads: number of heads of the fusion.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU.
        sparse: whether tables have sparse gradients.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        hidden_first: Sequence[int] = (1024, 512, 256),
        hidden_second: Sequence[int] = (512, 256),
        gate_hidden: int = 64,
        heads: int = 1,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        check_widths("model", hidden_first=hidden_first, hidden_second=hidden_second)
        check_count("model", heads=heads)
        width = self.fields * embedding_dim
        check_not_negative("model", gate_hidden=gate_hidden)
        gates = [FeatureGate(embedding_dim, width, gate_hidden) if gate_hidden else nn.Identity() for _ in range(2)]
        self.gate_first, self.gate_second = gates
        self.first = perceptron(width, hidden_first, dropout, batch_norm, outputs=None)
        self.second = perceptron(width, hidden_second, dropout, batch_norm, outputs=None)
        self.fusion = BilinearFusion(hidden_first[-1], hidden_second[-1], heads)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the fused logits, (B,)."""
        x = embeddings.flatten(1)
        return self.fusion(self.first(self.gate_first(x)), self.second(self.gate_second(x)))
