"""Product-based neural networks (Qu et al. 2016): IPNN with inner, OPNN with kernel products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.optfeature.deepfm import HIDDEN
from methods.optfeature.network import CTRNetwork, LinearTerm, PairNorm, perceptron
from methods.optfeature.pairs import pair_indices, pair_products


class IPNN(CTRNetwork):
    """Perceptron on the embeddings and the gated inner products of all pairs; the predictor of OptFeature.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU of the perceptron.
        linear: add a linear term; neither Qu et al. nor the published code do.
        pair_norm: normalise each pair term over the batch, for AutoFIS.
        sparse: whether tables have sparse gradients.
    """

    pair_gates = True

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        batch_norm: bool = False,
        linear: bool = False,
        pair_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        self.linear = LinearTerm(self.values, sparse) if linear else None
        self.pair_norm = PairNorm(self.pairs) if pair_norm else None
        self.mlp = perceptron(self.fields * embedding_dim + self.pairs, hidden, dropout, batch_norm)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the output of the perceptron, plus that of the linear term if there is one, (B,)."""
        products = self.products(embeddings)
        if self.pair_norm is not None:
            products = self.pair_norm(products)
        if pair_gate is not None:
            products = products * pair_gate
        result = self.mlp(torch.cat([embeddings.flatten(1), products], dim=1)).squeeze(1)
        return result if self.linear is None else result + self.linear(ids)

    def products(self, embeddings: Tensor) -> Tensor:
        """Return the inner product of each pair, (B, P).

        Args:
            embeddings: embeddings, (B, n, d).
        """
        return pair_products(embeddings, self.flat_pairs)


class OPNN(IPNN):
    """Product network whose product of a pair is e_i^T K_ij e_j, with a learnt matrix for each pair.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU of the perceptron.
        linear: add a linear term.
        pair_norm: normalise each pair term over the batch, for AutoFIS.
        sparse: whether tables have sparse gradients.
    """

    pair_fields: Tensor

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        batch_norm: bool = False,
        linear: bool = False,
        pair_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, hidden, dropout, batch_norm, linear, pair_norm, sparse)
        self.kernel = nn.Parameter(torch.empty(self.pairs, embedding_dim, embedding_dim))
        nn.init.xavier_uniform_(self.kernel)
        self.register_buffer("pair_fields", pair_indices(self.fields), persistent=False)

    def products(self, embeddings: Tensor) -> Tensor:
        """Return e_i^T K_ij e_j of each pair, (B, P).

        Args:
            embeddings: embeddings, (B, n, d).
        """
        first, second = embeddings[:, self.pair_fields[0]], embeddings[:, self.pair_fields[1]]
        return (torch.bmm(first.transpose(0, 1), self.kernel).transpose(0, 1) * second).sum(-1)
