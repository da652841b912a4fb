"""Deep & cross networks: DCN (Wang et al. 2017) and DCN-V2 (Wang et al. 2021), each beside a perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datasets.checks import check_count, check_widths
from methods.optfeature.deepfm import HIDDEN
from methods.optfeature.network import CTRNetwork, perceptron


class DCN(CTRNetwork):
    """Cross layers x_{l+1} = x_0 (w_l . x_l) + b_l + x_l, a parallel perceptron, and a last linear layer without bias.

    Args:
        field_sizes: number of ids of each field.
        embedding_dim: length of an embedding.
        layers: number of cross layers.
        hidden: width of each hidden layer.
        dropout: share of hidden units that are dropped.
        batch_norm: normalise before each ReLU.
        sparse: whether tables have sparse gradients.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        embedding_dim: int = 16,
        layers: int = 3,
        hidden: Sequence[int] = HIDDEN,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(field_sizes, embedding_dim, sparse)
        check_count("model", layers=layers)
        check_widths("model", hidden=hidden)
        width = self.fields * embedding_dim
        self.cross_layers = nn.ModuleList(self.cross_layer(width) for _ in range(layers))
        self.cross_biases = nn.ParameterList(torch.zeros(width) for _ in range(layers))
        self.mlp = perceptron(width, hidden, dropout, batch_norm, outputs=None)
        self.output = nn.Linear(width + hidden[-1], 1, bias=False)

    @staticmethod
    def cross_layer(width: int) -> nn.Linear:
        """Return the linear map of one cross layer.

        Args:
            width: length of the concatenated embeddings.
        """
        return nn.Linear(width, 1, bias=False)

    def cross(self, x: Tensor) -> Tensor:
        """Return the output of the cross layers, (B, n d).

        Args:
            x: concatenated embeddings, (B, n d).
        """
        result = x
        for layer, bias in zip(self.cross_layers, self.cross_biases, strict=True):
            result = x * layer(result) + bias + result
        return result

    def logits(self, ids: Tensor, embeddings: Tensor, pair_gate: Tensor | None) -> Tensor:
        """Return the output of the last layer, (B,)."""
        x = embeddings.flatten(1)
        return self.output(torch.cat([self.mlp(x), self.cross(x)], dim=1)).squeeze(1)


class DCNV2(DCN):
    """Cross layers with full matrices: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l; otherwise as `DCN`."""

    @staticmethod
    def cross_layer(width: int) -> nn.Linear:
        """Return the linear map of one cross layer.

        Args:
            width: length of the concatenated embeddings.
        """
        return nn.Linear(width, width, bias=False)

    def cross(self, x: Tensor) -> Tensor:
        """Return the output of the cross layers, (B, n d).

        Args:
            x: concatenated embeddings, (B, n d).
        """
        result = x
        for layer, bias in zip(self.cross_layers, self.cross_biases, strict=True):
            result = x * (layer(result) + bias) + result
        return result
