"""Base of the predictors: embeddings of fields, optional gates, multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from datasets.checks import check_count, check_fraction
from methods.optfeature.pairs import flat_pair_indices, pair_count


class CTRNetwork(nn.Module):
    """Predictor of the logit of a click from the ids of n fields.

    A subclass defines `logits`. Its `pair_gates` says whether it multiplies its pair terms with gates.

    Args:
        field_sizes: number of ids of each field; ids are global, each field has a block of its own.
        embedding_dim: length d of the embedding of an id; None: the predictor has no embeddings.
        sparse: give embedding tables sparse gradients, so that a step costs as much as the rows of the batch. The
            training then uses a lazy Adam without weight decay for them.
    """

    tasks = ("ctr",)
    pair_gates = False
    flat_pairs: Tensor

    def __init__(self, field_sizes: Sequence[int], embedding_dim: int | None = 16, sparse: bool = False) -> None:
        super().__init__()
        check_count("model", embedding_dim=embedding_dim)
        if len(field_sizes) < 2:
            raise ValueError(f"a click-through-rate model needs two fields or more, got {len(field_sizes)}")
        self.field_sizes, self.embedding_dim, self.sparse = tuple(field_sizes), embedding_dim or 0, sparse
        self.fields, self.values = len(field_sizes), sum(field_sizes)
        self.pairs = pair_count(self.fields)
        self.register_buffer("flat_pairs", flat_pair_indices(self.fields), persistent=False)
        self.embedding: nn.Embedding | None = None
        if embedding_dim:
            self.embedding = nn.Embedding(self.values, embedding_dim, sparse=sparse)
            nn.init.xavier_uniform_(self.embedding.weight)

    @property
    def offsets(self) -> list[int]:
        """First id of each field."""
        return [0, *accumulate(self.field_sizes[:-1])]

    def forward(self, ids: Tensor, pair_gate: Tensor | None = None, value_gate: Tensor | None = None) -> Tensor:
        """Return the logits of clicks.

        Args:
            ids: global ids.
            pair_gate: factor of each pair term; only for networks with `pair_gates`.
            value_gate: factor of the embedding of each id.

        Shapes:
            ids: (B, n) integer; pair_gate: (B, P) or (1, P); value_gate: (B, n).

        Returns:
            Logits, (B,).
        """
        embeddings = self.embed(ids)
        if value_gate is not None:
            embeddings = embeddings * value_gate.unsqueeze(-1)
        return self.logits(ids, embeddings, pair_gate)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of ids, (B, n, d).

        Args:
            ids: global ids, (B, n).
        """
        if self.embedding is None:
            return torch.empty(len(ids), self.fields, 0, device=ids.device)
        return self.embedding(ids)

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the logits from ids and their embeddings; a subclass does it.

        Args:
            ids: global ids, (B, n).
            embeddings: embeddings of the ids, (B, n, d).
            pair_gate: factor of each pair term, (B, P) or (1, P), or None.
        """
        raise TypeError(f"{type(self).__name__} does not define its logits")


class LinearTerm(nn.Module):
    """Sum of a bias and of one weight for each id.

    The weights begin at zero. The published code draws them from N(0, 1), which leaves logits of variance n that small
    data cannot undo.

    Args:
        values: number of ids of all fields.
        sparse: whether gradients are sparse.
    """

    def __init__(self, values: int, sparse: bool = False) -> None:
        super().__init__()
        self.weight = nn.Embedding(values, 1, sparse=sparse)
        nn.init.zeros_(self.weight.weight)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the linear term, (B,).

        Args:
            ids: global ids, (B, n).
        """
        return self.bias + self.weight(ids).sum((1, 2))


def perceptron(
    inputs: int, hidden: Sequence[int], dropout: float = 0.0, batch_norm: bool = False, outputs: int | None = 1
) -> nn.Sequential:
    """Build a multi-layer perceptron: Linear, BatchNorm if asked for, ReLU, Dropout; then a last Linear.

    Args:
        inputs: length of an input.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU.
        outputs: width of the last Linear; None: end with the last hidden layer.
    """
    check_fraction("model", dropout=dropout)
    layers: list[nn.Module] = []
    for width in hidden:
        check_count("model", hidden=width)
        layers.append(nn.Linear(inputs, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    if outputs is not None:
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


class PairNorm(nn.BatchNorm1d):
    """Batch norm of each pair term without scale and shift, as AutoFIS has it: gates become comparable.

    Momentum and epsilon are TensorFlow's defaults.

    Args:
        pairs: number of pairs.
    """

    def __init__(self, pairs: int) -> None:
        super().__init__(pairs, eps=1e-3, momentum=0.01, affine=False)
