"""Predictors with a perceptron beside a shallow part: FNN, Wide&Deep (Cheng et al. 2016), DeepFM (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from methods.optfeature.factorization_machines import FM
from methods.optfeature.network import CTRNetwork, LinearTerm, perceptron

HIDDEN = (1024, 512, 256)


class FNN(CTRNetwork):
    """Perceptron on the concatenated embeddings (Zhang et al. 2016, without pre-training); BARS calls it DNN.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU.
        sparse: whether tables have sparse gradients.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        self.mlp = perceptron(self.fields * embedding_dim, hidden, dropout, batch_norm)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the output of the perceptron, (B,)."""
        return self.mlp(embeddings.flatten(1)).squeeze(1)


class WideDeep(FNN):
    """Wide&Deep: a linear term beside the perceptron. Arguments as for `FNN`.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU.
        sparse: whether tables have sparse gradients.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, hidden, dropout, batch_norm, sparse)
        self.linear = LinearTerm(self.values, sparse)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the sum of both parts, (B,)."""
        return super().logits(ids, embeddings, pair_gate) + self.linear(ids)


class DeepFM(FM):
    """Factorization machine and perceptron on the same embeddings.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU of the perceptron.
        linear: add a linear term, as Guo et al. do; the published code does not.
        pair_norm: normalise each pair term over the batch, for AutoFIS.
        sparse: whether tables have sparse gradients.
    """

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
        super().__init__(field_sizes, embedding_dim, linear, pair_norm, sparse)
        self.mlp = perceptron(self.fields * embedding_dim, hidden, dropout, batch_norm)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the sum of both parts, (B,)."""
        return super().logits(ids, embeddings, pair_gate) + self.mlp(embeddings.flatten(1)).squeeze(1)
