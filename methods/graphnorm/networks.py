"""Networks for graph classification: GIN and GCN as in the paper's code, and the original GIN of Xu et al."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from datasets.checks import check_choice, check_fraction, check_positive
from datasets.graphs.store import GraphBatch
from methods.graphnorm.norms import make_norm
from methods.graphnorm.segments import neighbour_sum, segment_sum


class GINLayer(nn.Module):
    """GIN layer: (1 + eps) h + sum of the neighbours, then Linear, Norm, ReLU, Linear.

    Args:
        in_channels: number of input features.
        hidden: number of output features.
        norm: name of the norm in `norms.NORMS`.
        learn_eps: whether eps is learned; it is 0 at first.
        self_loops: whether a node is a neighbour of itself too.
        norm_kwargs: arguments of the norm.
    """

    def __init__(
        self, in_channels: int, hidden: int, norm: str, learn_eps: bool, self_loops: bool, **norm_kwargs: Any
    ) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()), requires_grad=learn_eps)
        self.own_weight = 2.0 if self_loops else 1.0
        self.lin1 = nn.Linear(in_channels, hidden)
        self.norm = make_norm(norm, hidden, **norm_kwargs)
        self.lin2 = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Map node features (N, in_channels) to (N, hidden)."""
        summed = neighbour_sum(graphs.adj, h, self.own_weight)
        h = summed + self.eps * h if self.eps.requires_grad else summed
        return self.lin2(relu(self.norm(self.lin1(h), graphs), inplace=True))


class GCNLayer(nn.Module):
    """GCN layer: D^-1/2 (A + I) D^-1/2 h W + b, with Xavier uniform W and b = 0 at first.

    Args:
        in_channels: number of input features.
        hidden: number of output features.
        self_loops: whether I is added to A.
    """

    def __init__(self, in_channels: int, hidden: int, self_loops: bool) -> None:
        super().__init__()
        self.self_loops = self_loops
        self.lin = nn.Linear(in_channels, hidden)
        nn.init.xavier_uniform_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Map node features (N, in_channels) to (N, hidden)."""
        scale = (graphs.degree + self.self_loops).clamp(min=1).rsqrt().unsqueeze(1)
        h = scale * (h @ self.lin.weight.T)
        summed = neighbour_sum(graphs.adj, h)
        return scale * (summed + h if self.self_loops else summed) + self.lin.bias


class GraphNetwork(nn.Module):
    """Base class of networks: message passing layers, each followed by Norm and ReLU; pooling; a linear classifier.

    Args:
        in_channels: number of node features.
        out_channels: number of classes.
        hidden: width of every layer.
        layers: number of message passing layers. The paper's n_layers = 5 counts the input as one, so it is 4 here.
        norm: name of the norm in `norms.NORMS`.
        norm_kwargs: arguments of the norm.
        readout: `sum` or `mean` of the nodes.
        residual: whether a layer's input is added to its output, from the second layer on.
        jumping: readout of Xu et al.: one classifier per depth, the input included, dropout on each, summed.
        dropout: dropout probability on the logits, as in the code of both papers.
        layer_kwargs: arguments of `make_layer`.

    Raises:
        ValueError: an argument is out of range.
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
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        check_choice("model.readout", readout, ("sum", "mean"))
        check_positive("model", layers=layers, hidden=hidden)
        check_fraction("model", dropout=dropout)
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

    def make_layer(self, in_channels: int, hidden: int, norm: str, norm_kwargs: dict, **kwargs: Any) -> nn.Module:
        """Return a message passing layer (N, in_channels) -> (N, hidden). A subclass implements this."""
        raise NotImplementedError(f"{type(self).__name__}.make_layer is missing")

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Return the logits (B, out_channels) of a batch."""
        depths = self.embed(graphs) if self.jumping else self.embed(graphs)[-1:]
        pooled = [self.pool(h, graphs) for h in depths]
        logits = [self.dropout(head(g)) for head, g in zip(self.classifiers, pooled, strict=True)]
        return sum(logits[1:], logits[0])

    def embed(self, graphs: GraphBatch) -> list[Tensor]:
        """Return node features at every depth: the input (N, F), then (N, hidden) for each layer."""
        depths = [graphs.x.to(next(self.classifiers.parameters()).dtype)]
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            z = relu(norm(layer(depths[-1], graphs), graphs), inplace=True)
            depths.append(z + depths[-1] if self.residual and i > 0 else z)
        return depths

    def pool(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Pool node features (N, d) to graph features (B, d)."""
        summed = segment_sum(graphs.pool, graphs.batch, h)
        return summed / graphs.sizes.clamp(min=1).unsqueeze(1) if self.readout == "mean" else summed


class GIN(GraphNetwork):
    """`GraphNetwork` of GIN layers (Xu et al. 2019). Its layers take `learn_eps` and `self_loops`.

    By default eps is not learned, and a node is a neighbour of itself, as the paper's scripts have it.
    """

    def make_layer(  # type: ignore[override]  # layer_kwargs are those of the layer
        self,
        in_channels: int,
        hidden: int,
        norm: str,
        norm_kwargs: dict,
        learn_eps: bool = False,
        self_loops: bool = True,
    ) -> nn.Module:
        """Return a `GINLayer`."""
        return GINLayer(in_channels, hidden, norm, learn_eps, self_loops, **norm_kwargs)


class GCN(GraphNetwork):
    """`GraphNetwork` of GCN layers (Kipf and Welling 2017), which take `self_loops`."""

    def make_layer(  # type: ignore[override]  # layer_kwargs are those of the layer
        self, in_channels: int, hidden: int, norm: str, norm_kwargs: dict, self_loops: bool = True
    ) -> nn.Module:
        """Return a `GCNLayer`."""
        return GCNLayer(in_channels, hidden, self_loops)
