"""AutoInt (Song et al. 2019): self-attention between the fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datasets.checks import check_count, check_fraction
from methods.optfeature.network import CTRNetwork, perceptron


class FieldAttention(nn.Module):
    """Multi-head self-attention with a residual map and ReLU; the scores are not scaled, as in the original.

    Args:
        inputs: length of an input vector.
        heads: number of heads.
        head_dim: length of the vectors of a head.
    """

    def __init__(self, inputs: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.residual = (
            nn.Linear(inputs, heads * head_dim, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended vectors, (B, n, heads * head_dim).

        Args:
            x: vector of each field, (B, n, inputs).
        """
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
        return torch.relu((weights @ value).transpose(1, 2).flatten(2) + self.residual(x))


class AutoInt(CTRNetwork):
    """Stack of attention layers over the embeddings and a linear output; AutoInt+ with a parallel perceptron.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        layers: number of attention layers.
        heads: number of heads.
        head_dim: length of the vectors of a head.
        hidden: width of each hidden layer of the perceptron of AutoInt+; empty: no perceptron.
        dropout: share of hidden units that are dropped.
        sparse: whether tables have sparse gradients.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        layers: int = 3,
        heads: int = 2,
        head_dim: int = 32,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        check_count("model", layers=layers, heads=heads, head_dim=head_dim)
        check_fraction("model", dropout=dropout)
        width = heads * head_dim
        self.attention = nn.Sequential(
            *(FieldAttention(width if number else embedding_dim, heads, head_dim) for number in range(layers))
        )
        self.output = nn.Linear(self.fields * width, 1)
        self.mlp = perceptron(self.fields * embedding_dim, hidden, dropout) if hidden else None

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the output of the attention part and of the perceptron, (B,)."""
        result = self.output(self.attention(embeddings).flatten(1)).squeeze(1)
        return result if self.mlp is None else result + self.mlp(embeddings.flatten(1)).squeeze(1)
