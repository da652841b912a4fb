"""The normalisations that the paper compares, and those of torch-geometric beside them, by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.graphnorm.segments import graph_norm


class GraphNorm(nn.Module):
    """Normalises each channel over the nodes of each graph, subtracting a learnable share of the mean.

    Parameters (names and initial values of torch-geometric): mean_scale (the paper's alpha) = 1, weight = 1, bias = 0,
    each (channels,). With `learn_scale=False` alpha stays 1: InstanceNorm. eps: 1e-6 in the paper's code.
    """

    def __init__(self, channels: int, eps: float = 1e-6, learn_scale: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_scale = nn.Parameter(torch.ones(channels), requires_grad=learn_scale)

    def forward(self, h: Tensor, graphs) -> Tensor:
        return graph_norm(h, self.mean_scale, self.weight, self.bias, graphs.pool, graphs.batch, graphs.sizes, self.eps)


class InstanceNorm(GraphNorm):
    """GraphNorm with alpha fixed at 1, with affine parameters as in the paper's formulation."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps, learn_scale=False)


class NodeWise(nn.Module):
    """A norm of torch.nn that sees only the (N, d) node matrix."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, h: Tensor, graphs) -> Tensor:
        return self.norm(h)


class PyG(nn.Module):
    """A norm of torch_geometric.nn, told which nodes belong to which graph if it asks."""

    def __init__(self, name: str, *args, per_graph: bool = True, **kwargs) -> None:
        super().__init__()
        import torch_geometric.nn

        self.norm = getattr(torch_geometric.nn, name)(*args, **kwargs)
        self.per_graph = per_graph

    def forward(self, h: Tensor, graphs) -> Tensor:
        return self.norm(h, graphs.batch, graphs.num_graphs) if self.per_graph else self.norm(h)


class MessageNorm(nn.Module):
    """torch-geometric's MessageNorm: the normalised message takes the norm of the node it arrives at."""

    def __init__(self, learn_scale: bool = True) -> None:
        super().__init__()
        from torch_geometric.nn import MessageNorm as Norm

        self.norm = Norm(learn_scale)

    def forward(self, h: Tensor, graphs) -> Tensor:
        return self.norm(h, h)


NORMS = {
    "none": lambda channels: NodeWise(nn.Identity()),
    "batch": lambda channels, **k: NodeWise(nn.BatchNorm1d(channels, **k)),
    "layer": lambda channels, **k: NodeWise(nn.LayerNorm(channels, **k)),
    "instance": InstanceNorm,
    "graph": GraphNorm,
    "layer_graph": lambda channels, **k: PyG("LayerNorm", channels, mode="graph", **k),
    "pair": lambda channels, **k: PyG("PairNorm", **k),
    "mean_subtraction": lambda channels: PyG("MeanSubtractionNorm"),
    "graph_size": lambda channels: PyG("GraphSizeNorm"),
    "diff_group": lambda channels, groups=4, **k: PyG("DiffGroupNorm", channels, groups, per_graph=False, **k),
    "message": lambda channels, **k: MessageNorm(**k),
}


def make_norm(name: str, channels: int, **kwargs) -> nn.Module:
    """The norm `name` for (N, channels) node matrices, called as norm(h, graphs).

    Raises ValueError for an unknown name.
    """
    if name not in NORMS:
        raise ValueError(f"model.norm={name} is unknown; choose from {', '.join(NORMS)}")
    return NORMS[name](channels, **kwargs)
