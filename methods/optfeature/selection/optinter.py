"""OptInter (Lyu et al., ICDE 2022): each pair is memorised, factorised or dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Adam, Optimizer

from datasets.checks import check_positive
from methods.optfeature.deepfm import HIDDEN
from methods.optfeature.network import CTRNetwork, perceptron
from methods.optfeature.pairs import pair_indices
from methods.optfeature.selection.base import Gates, Selection

MEMORISE, FACTORISE, DROP = 0, 1, 2
HASH = (0x9E3779B1, 0x85EBCA77)


class OptInterNetwork(CTRNetwork):
    """Perceptron on the embeddings and, for each pair, a mixture of a cross embedding, e_i * e_j, and nothing.

    The published code counts the pairs of values of each pair of fields and gives frequent ones an embedding. Here
    pairs of values share `cross_values` embeddings by hashing, which needs no second vocabulary.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        cross_values: number of cross embeddings.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU.
        sparse: whether tables have sparse gradients.
    """

    pair_fields: Tensor

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        cross_values: int = 2**18,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        check_positive("model", cross_values=cross_values)
        self.cross_values = cross_values
        self.cross_embedding = nn.Embedding(cross_values, embedding_dim, sparse=sparse)
        self.factor_embedding = nn.Embedding(self.values, embedding_dim, sparse=sparse)
        for table in (self.cross_embedding, self.factor_embedding):
            nn.init.xavier_uniform_(table.weight)
        self.register_buffer("pair_fields", pair_indices(self.fields), persistent=False)
        self.mlp = perceptron((self.fields + self.pairs) * embedding_dim, hidden, dropout, batch_norm)

    def cross_ids(self, ids: Tensor) -> Tensor:
        """Return the number of the cross embedding of each pair, (B, P) int64.

        Args:
            ids: global ids, (B, n).
        """
        first, second = (ids[:, fields].long() for fields in self.pair_fields)
        mixed = (first * HASH[0]) ^ (second * HASH[1])
        return (mixed ^ (mixed >> 15)) % self.cross_values

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the output of the perceptron, (B,).

        Args:
            ids: global ids, (B, n).
            embeddings: embeddings, (B, n, d).
            pair_gate: shares of memorising, factorising and dropping, (1, P, 3); None: all pairs factorised.
        """
        factors = self.factor_embedding(ids)
        products = factors[:, self.pair_fields[0]] * factors[:, self.pair_fields[1]]
        if pair_gate is not None:
            crosses = self.cross_embedding(self.cross_ids(ids))
            products = pair_gate[..., [MEMORISE]] * crosses + pair_gate[..., [FACTORISE]] * products
        return self.mlp(torch.cat([embeddings.flatten(1), products.flatten(1)], dim=1)).squeeze(1)


class OptInter(Selection):
    """Softmax over the three treatments of each pair, whose temperature falls; afterwards the most likely one.

    Args:
        field_sizes: number of ids of each field.
        lr: learning rate of the choice.
        cooling: decrease of the temperature a step, from 1 down to 0.01.
        path: file of a frozen selection.
    """

    def __init__(
        self, field_sizes: Sequence[int], lr: float = 1e-3, cooling: float = 5e-5, path: str | None = None
    ) -> None:
        super().__init__(field_sizes, path)
        check_positive("method.selection", lr=lr)
        self.lr, self.cooling = lr, cooling
        self.choice = nn.Parameter(torch.zeros(self.pairs, 3))
        self.temperature = 1.0

    def check_network(self, network: CTRNetwork) -> None:
        """Raise ValueError if the predictor is not OptInter's.

        Args:
            network: predictor.
        """
        if not isinstance(network, OptInterNetwork):
            raise ValueError(f"OptInter goes with model=optinter, got {type(network).__name__}")

    def begin_step(self, step: int) -> None:
        """Set the temperature of the step."""
        self.temperature = max(0.01, 1 - self.cooling * step)

    def gates(self, ids: Tensor) -> Gates:
        """Return the shares of the treatments, (1, P, 3)."""
        if self.is_frozen:
            return Gates(pair=one_hot(self.choice.argmax(1), 3).to(self.choice.dtype).unsqueeze(0))
        return Gates(pair=torch.softmax(self.choice / self.temperature, dim=1).unsqueeze(0))

    def optimizers(self) -> list[Optimizer]:
        """Return Adam on the choice."""
        return [Adam([self.choice], lr=self.lr)]

    def field_level(self) -> Tensor:
        """Return 0 for dropped pairs, else 1, (P,)."""
        return (self.choice.argmax(1) != DROP).float()
