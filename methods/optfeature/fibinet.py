"""FiBiNET (Huang et al. 2019): squeeze-and-excitation of fields, bilinear products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datasets.checks import check_positive
from methods.optfeature.deepfm import HIDDEN
from methods.optfeature.network import CTRNetwork, LinearTerm, perceptron
from methods.optfeature.pairs import pair_indices


class SqueezeExcitation(nn.Module):
    """Weights of the fields from the means of their embeddings.

    Args:
        fields: number of fields n.
        reduction: factor between the number of fields and the width of the hidden layer.
    """

    def __init__(self, fields: int, reduction: float = 3.0) -> None:
        super().__init__()
        check_positive("model", reduction=reduction)
        width = max(1, int(fields / reduction))
        self.excitation = nn.Sequential(
            nn.Linear(fields, width, bias=False), nn.ReLU(), nn.Linear(width, fields, bias=False), nn.ReLU()
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the weighted embeddings, (B, n, d).

        Args:
            embeddings: embeddings, (B, n, d).
        """
        return embeddings * self.excitation(embeddings.mean(-1)).unsqueeze(-1)


class BilinearProducts(nn.Module):
    """Products (e_i W_i) * e_j with a matrix for each first field.

    Args:
        fields: number of fields n.
        dim: length of an embedding.
    """

    pair_fields: Tensor

    def __init__(self, fields: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fields, dim, dim))
        nn.init.xavier_normal_(self.weight)
        self.register_buffer("pair_fields", pair_indices(fields), persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the product of each pair, (B, P, d).

        Args:
            embeddings: embeddings, (B, n, d).
        """
        mapped = torch.bmm(embeddings.transpose(0, 1), self.weight).transpose(0, 1)
        return mapped[:, self.pair_fields[0]] * embeddings[:, self.pair_fields[1]]


class FiBiNET(CTRNetwork):
    """Bilinear products of plain and of weighted embeddings, a perceptron on both, and a linear term.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        reduction: reduction of the squeeze-and-excitation.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU.
        sparse: whether tables have sparse gradients.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        reduction: float = 3.0,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        self.linear = LinearTerm(self.values, sparse)
        self.squeeze_excitation = SqueezeExcitation(self.fields, reduction)
        self.bilinear = BilinearProducts(self.fields, embedding_dim)
        self.mlp = perceptron(2 * self.pairs * embedding_dim, hidden, dropout, batch_norm)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the sum of perceptron and linear term, (B,)."""
        products = [self.bilinear(x).flatten(1) for x in (embeddings, self.squeeze_excitation(embeddings))]
        return self.linear(ids) + self.mlp(torch.cat(products, dim=1)).squeeze(1)
