"""Normalisations of node features by name: those that the paper compares, and others of torch-geometric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice
from datasets.graphs.store import GraphBatch
from methods.graphnorm.segments import graph_norm


class GraphNorm(nn.Module):
    """Normalisation of each channel over the nodes of each graph, with a learnable share of the mean subtracted.

    Parameters, with the names and initial values of torch-geometric: mean_scale (the paper's alpha) = 1, weight = 1,
    bias = 0, each (channels,). The second moment is that of the shifted values, as in the paper's code.

    Args:
        channels: number of channels.
        eps: summand inside the root; 1e-6 in the paper's code.
        learn_scale: whether mean_scale is learned. If not, it stays 1, which is InstanceNorm.
    """

    def __init__(self, channels: int, eps: float = 1e-6, learn_scale: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_scale = nn.Parameter(torch.ones(channels), requires_grad=learn_scale)

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Normalise node features (N, channels)."""
        return graph_norm(h, self.mean_scale, self.weight, self.bias, graphs.pool, graphs.batch, graphs.sizes, self.eps)


class InstanceNorm(GraphNorm):
    """GraphNorm with alpha fixed at 1, with affine parameters as in the paper's formulation.

    The paper's code for ogbg-molhiv uses this norm under the name "gn".

    Args:
        channels: number of channels.
        eps: summand inside the root.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps, learn_scale=False)


class NodeMatrixNorm(nn.Module):
    """Norm of torch.nn that is applied to the node matrix (N, d) alone.

    Args:
        norm: the norm.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Normalise node features (N, d)."""
        return self.norm(h)


class PyGNorm(nn.Module):
    """Norm of torch_geometric.nn.

    Args:
        name: class of the norm.
        args: arguments of the norm.
        per_graph: whether the norm takes the graph of each node.
        kwargs: arguments of the norm.
    """

    def __init__(self, name: str, *args: Any, per_graph: bool = True, **kwargs: Any) -> None:
        super().__init__()
        import torch_geometric.nn

        self.norm = getattr(torch_geometric.nn, name)(*args, **kwargs)
        self.per_graph = per_graph

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Normalise node features (N, d)."""
        return self.norm(h, graphs.batch, graphs.num_graphs) if self.per_graph else self.norm(h)


class MessageNorm(nn.Module):
    """Torch-geometric's MessageNorm: the normalised message takes the norm of the node that receives it.

    Args:
        learn_scale: whether its scale is learned.
    """

    def __init__(self, learn_scale: bool = True) -> None:
        super().__init__()
        from torch_geometric.nn import MessageNorm as Norm

        self.norm = Norm(learn_scale)

    def forward(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        """Normalise node features (N, d)."""
        return self.norm(h, h)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "none": lambda channels: NodeMatrixNorm(nn.Identity()),
    "batch": lambda channels, **k: NodeMatrixNorm(nn.BatchNorm1d(channels, **k)),
    "layer": lambda channels, **k: NodeMatrixNorm(nn.LayerNorm(channels, **k)),
    "instance": InstanceNorm,
    "graph": GraphNorm,
    "layer_graph": lambda channels, **k: PyGNorm("LayerNorm", channels, mode="graph", **k),
    "pair": lambda channels, **k: PyGNorm("PairNorm", **k),
    "mean_subtraction": lambda channels: PyGNorm("MeanSubtractionNorm"),
    "graph_size": lambda channels: PyGNorm("GraphSizeNorm"),
    "diff_group": lambda channels, groups=4, **k: PyGNorm("DiffGroupNorm", channels, groups, per_graph=False, **k),
    "message": lambda channels, **k: MessageNorm(**k),
}


def make_norm(name: str, channels: int, **kwargs: Any) -> nn.Module:
    """Return a norm for node matrices (N, channels), called as norm(h, graphs).

    Args:
        name: key of `NORMS`.
        channels: number of channels.
        kwargs: arguments of the norm.

    Raises:
        ValueError: the name is unknown, or the norm does not take the arguments.
    """
    check_choice("model.norm", name, tuple(NORMS))
    try:
        return NORMS[name](channels, **kwargs)
    except TypeError as error:
        given = ", ".join(f"{key}={value}" for key, value in kwargs.items())
        raise ValueError(f"model.norm_kwargs: the norm {name} does not take {given}: {error}") from error
