"""GIN and GCN for graph classification, as in the paper's code, and the original GIN of Xu et al."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from methods.graphnorm.norms import make_norm
from methods.graphnorm.segments import neighbour_sum, segment_sum


class GINLayer(nn.Module):
    """(1 + eps) h + sum of the neighbours, then Linear, Norm, ReLU, Linear.

    With `self_loops` the node is a neighbour of itself too.
    """

    def __init__(
        self, in_channels: int, hidden: int, norm: str, learn_eps: bool, self_loops: bool, **norm_kwargs
    ) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()), requires_grad=learn_eps)
        self.own_weight = 2.0 if self_loops else 1.0
        self.lin1 = nn.Linear(in_channels, hidden)
        self.norm = make_norm(norm, hidden, **norm_kwargs)
        self.lin2 = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, graphs) -> Tensor:
        summed = neighbour_sum(graphs.adj, h, self.own_weight)
        h = summed + self.eps * h if self.eps.requires_grad else summed
        return self.lin2(relu(self.norm(self.lin1(h), graphs), inplace=True))


class GCNLayer(nn.Module):
    """D^-1/2 (A + I) D^-1/2 h W + b with Xavier W and b = 0; without `self_loops` A alone."""

    def __init__(self, in_channels: int, hidden: int, self_loops: bool) -> None:
        super().__init__()
        self.self_loops = self_loops
        self.lin = nn.Linear(in_channels, hidden)
        nn.init.xavier_uniform_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    def forward(self, h: Tensor, graphs) -> Tensor:
        scale = (graphs.degree + self.self_loops).clamp(min=1).rsqrt().unsqueeze(1)
        h = scale * (h @ self.lin.weight.T)
        summed = neighbour_sum(graphs.adj, h)
        return scale * (summed + h if self.self_loops else summed) + self.lin.bias


class GraphNetwork(nn.Module):
    """Message passing layers, each followed by Norm, ReLU and (from the second on) a residual; pooling; a classifier.

    Args:
        in_channels, out_channels: node features, classes. hidden: width of every layer.
        layers: message passing layers (the paper's n_layers = 5 counts the input as one, so 4 here).
        norm, norm_kwargs: by the names of `methods.graphnorm.norms`.
        readout: `sum` or `mean` of the nodes. residual: H + Z from the second layer on.
        jumping: the readout of Xu et al.: one classifier per depth, raw input included, dropout on each, summed.
        dropout: on the logits, as in both papers' code.

    Forward: GraphBatch -> logits (B, out_channels).
    """

    tasks = ("graph-classification",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int = 64,
        layers: int = 4,
        norm: str = "graph",
        norm_kwargs: dict | None = None,
        readout: Literal["sum", "mean"] = "sum",
        residual: bool = True,
        jumping: bool = False,
        dropout: float = 0.5,
        **layer_kwargs,
    ) -> None:
        super().__init__()
        if readout not in ("sum", "mean"):
            raise ValueError(f"model.readout must be sum or mean, got {readout}")
        if layers < 1 or hidden < 1:
            raise ValueError(f"model.layers and model.hidden must be positive, got {layers} and {hidden}")
        norm_kwargs = dict(norm_kwargs or {})
        widths = [in_channels] + [hidden] * layers
        self.layers = nn.ModuleList(
            self.make_layer(width, hidden, norm, norm_kwargs, **layer_kwargs) for width in widths[:-1]
        )
        self.norms = nn.ModuleList(make_norm(norm, hidden, **norm_kwargs) for _ in range(layers))
        self.readout, self.residual, self.jumping = readout, residual, jumping
        self.classifiers = nn.ModuleList(
            nn.Linear(width, out_channels) for width in (widths if jumping else widths[-1:])
        )
        self.dropout = nn.Dropout(dropout)

    def make_layer(self, in_channels: int, hidden: int, norm: str, norm_kwargs: dict, **kwargs) -> nn.Module:
        """One message passing layer (N, in_channels) -> (N, hidden)."""
        raise TypeError(f"{type(self).__name__} does not say which layer it is made of")

    def forward(self, graphs) -> Tensor:
        depths = self.embed(graphs) if self.jumping else self.embed(graphs)[-1:]
        pooled = [self.pool(h, graphs) for h in depths]
        return sum(self.dropout(head(g)) for head, g in zip(self.classifiers, pooled, strict=True))

    def embed(self, graphs) -> list[Tensor]:
        """Node features at every depth, the input first: (N, F), then (N, hidden) `layers` times."""
        depths = [graphs.x.to(self.classifiers[0].weight.dtype)]
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            z = relu(norm(layer(depths[-1], graphs), graphs), inplace=True)
            depths.append(z + depths[-1] if self.residual and i > 0 else z)
        return depths

    def pool(self, h: Tensor, graphs) -> Tensor:
        summed = segment_sum(graphs.pool, graphs.batch, h)
        return summed / graphs.sizes.clamp(min=1).unsqueeze(1) if self.readout == "mean" else summed


class GIN(GraphNetwork):
    """`GraphNetwork` of GIN layers (Xu et al. 2019).

    learn_eps: False in the paper unless said. self_loops: True, as its scripts pass.
    """

    def make_layer(self, in_channels, hidden, norm, norm_kwargs, learn_eps: bool = False, self_loops: bool = True):
        return GINLayer(in_channels, hidden, norm, learn_eps, self_loops, **norm_kwargs)


class GCN(GraphNetwork):
    """`GraphNetwork` of GCN layers (Kipf and Welling 2017)."""

    def make_layer(self, in_channels, hidden, norm, norm_kwargs, self_loops: bool = True):
        return GCNLayer(in_channels, hidden, self_loops)
