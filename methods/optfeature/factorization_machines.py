"""Logistic regression and factorization machines: LR, FM (Rendle 2010), FwFM (Pan et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.optfeature.network import CTRNetwork, LinearTerm, PairNorm
from methods.optfeature.pairs import pair_products


def square_of_sum(embeddings: Tensor) -> Tensor:
    """Compute the sum of the inner products of all pairs, ((sum_i e_i)^2 - sum_i e_i^2) / 2 summed over d.

    Args:
        embeddings: embeddings, (B, n, d).

    Returns:
        Sums, (B,).
    """
    return (embeddings.sum(1).square() - embeddings.square().sum(1)).sum(1) / 2


class LR(CTRNetwork):
    """Logistic regression on one-hot fields.

    Args:
        field_sizes: number of ids of each field.
        sparse: whether the weights have sparse gradients.
    """

    def __init__(self, field_sizes: Sequence[int], sparse: bool = False) -> None:
        super().__init__(field_sizes, None, sparse)
        self.linear = LinearTerm(self.values, sparse)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return bias plus weights of the ids, (B,)."""
        return self.linear(ids)


class FM(CTRNetwork):
    """Factorization machine: the inner products of all pairs of embeddings.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        linear: add a bias and a weight for each id, as Rendle does; the published code does not.
        pair_norm: normalise each pair term over the batch, for AutoFIS.
        sparse: whether tables have sparse gradients.
    """

    pair_gates = True

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        linear: bool = False,
        pair_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        self.linear = LinearTerm(self.values, sparse) if linear else None
        self.pair_norm = PairNorm(self.pairs) if pair_norm else None

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the sum of the gated pair terms and of the linear term, (B,)."""
        result = self.pair_term(embeddings, pair_gate)
        return result if self.linear is None else result + self.linear(ids)

    def pair_term(self, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the sum of the gated inner products, (B,).

        Args:
            embeddings: embeddings, (B, n, d).
            pair_gate: factor of each pair, (B, P) or (1, P); None: 1.
        """
        if pair_gate is None and self.pair_norm is None:
            return square_of_sum(embeddings)
        products = pair_products(embeddings, self.flat_pairs)
        if self.pair_norm is not None:
            products = self.pair_norm(products)
        return products.sum(1) if pair_gate is None else (products * pair_gate).sum(1)


class FwFM(FM):
    """Field-weighted factorization machine: a learnt weight for each pair of fields, and a linear term.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        linear: have the linear term, as Pan et al. do.
        pair_norm: normalise each pair term over the batch, for AutoFIS.
        sparse: whether tables have sparse gradients.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        linear: bool = True,
        pair_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, linear, pair_norm, sparse)
        self.pair_weight = nn.Parameter(torch.empty(self.pairs))
        nn.init.normal_(self.pair_weight, std=self.pairs**-0.5)

    def pair_term(self, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the sum of the weighted, gated inner products, (B,).

        Args:
            embeddings: embeddings, (B, n, d).
            pair_gate: factor of each pair, (B, P) or (1, P); None: 1.
        """
        weight = self.pair_weight if pair_gate is None else self.pair_weight * pair_gate
        return super().pair_term(embeddings, weight)
