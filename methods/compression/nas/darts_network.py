"""Networks of DARTS: the one that is searched, and the one of a genotype."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.compression.dynamic.early_exit import Normalize
from methods.compression.nas.darts_ops import OPERATIONS, FactorizedReduce, make_operation, relu_conv_norm

NODES = 4  # intermediate nodes of a cell
EDGES = sum(2 + node for node in range(NODES))


class Genotype(NamedTuple):
    """Cell architectures: for each node its two (operation, source) pairs, sources 0 and 1 being the cells before.

    Args:
        normal: 8 pairs of the normal cell.
        reduce: 8 pairs of the reduction cell.
    """

    normal: list[tuple[str, int]]
    reduce: list[tuple[str, int]]


_S3, _SK, _D3, _MP = "sep_conv_3x3", "skip_connect", "dil_conv_3x3", "max_pool_3x3"
DARTS_V2 = Genotype(
    [(_S3, 0), (_S3, 1), (_S3, 0), (_S3, 1), (_S3, 1), (_SK, 0), (_SK, 0), (_D3, 2)],
    [(_MP, 0), (_MP, 1), (_SK, 2), (_MP, 1), (_MP, 0), (_SK, 2), (_SK, 2), (_MP, 1)],
)


def parse_genotype(alphas: Tensor) -> list[tuple[str, int]]:
    """Return the pairs of a cell: for each node the two edges of the largest weight of an operation that is not none.

    Args:
        alphas: architecture weights (14, 8), an edge a row, edges of a node together.
    """
    weights, none = torch.softmax(alphas.detach(), -1), OPERATIONS.index("none")
    pairs, start = [], 0
    for node in range(NODES):
        rows = weights[start : start + 2 + node].clone()
        rows[:, none] = -1
        best, op = rows.max(1)
        chosen = best.topk(2).indices.tolist()  # the larger one first
        pairs += [(OPERATIONS[int(op[source])], source) for source in chosen]
        start += 2 + node
    return pairs


class MixedOperation(nn.Module):
    """Weighted sum of all operations.

    Args:
        channels: channels.
        stride: stride.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(make_operation(n, channels, stride, False, True) for n in OPERATIONS)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of weight x operation(x)."""
        return sum(w * op(x) for w, op in zip(weights, self.operations, strict=True))  # type: ignore[return-value]


def cell_inputs(before: int, last: int, channels: int, after_reduction: bool, affine: bool) -> list[nn.Module]:
    """Return the two modules that bring the outputs of the two cells before to the same shape."""
    first = (
        FactorizedReduce(before, channels, affine) if after_reduction else relu_conv_norm(before, channels, 1, affine)
    )
    return [first, relu_conv_norm(last, channels, 1, affine)]


class SearchCell(nn.Module):
    """Cell with all operations on all edges; the output is the concatenation of its 4 nodes.

    Args:
        before: channels of the output of the cell before the last one.
        last: channels of the output of the last cell.
        channels: channels of a node.
        reduction: halve the map.
        after_reduction: the last cell has halved it.
    """

    def __init__(self, before: int, last: int, channels: int, reduction: bool, after_reduction: bool) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(cell_inputs(before, last, channels, after_reduction, False))
        self.edges = nn.ModuleList(
            MixedOperation(channels, 2 if reduction and source < 2 else 1)
            for node in range(NODES)
            for source in range(2 + node)
        )

    def forward(self, before: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        """Return the output of the cell; weights (14, 8)."""
        states = [self.inputs[0](before), self.inputs[1](last)]
        start = 0
        for node in range(NODES):
            edges = range(start, start + 2 + node)
            states.append(sum(self.edges[e](s, weights[e]) for e, s in zip(edges, states, strict=True)))  # type: ignore[arg-type]
            start += 2 + node
        return torch.cat(states[2:], 1)


def plan(layers: int, channels: int) -> list[tuple[int, bool]]:
    """Return channels and whether a cell is a reduction, for each cell: reductions at 1/3 and 2/3 of the depth."""
    cells = []
    for i in range(layers):
        reduction = i in (layers // 3, 2 * layers // 3) and layers > 2
        channels = 2 * channels if reduction else channels
        cells.append((channels, reduction))
    return cells


def make_stem(width: int, in_channels: int, mean: Any, std: Any) -> nn.Sequential:
    """Return the layers before the first cell: normalisation of the images, a 3x3 convolution, BN.

    Args:
        width: output channels.
        in_channels: channels of the images.
        mean: mean of each channel of the images.
        std: standard deviation of each channel.
    """
    return nn.Sequential(
        Normalize(*(torch.tensor(v).float().view(-1, 1, 1) for v in (mean, std))),
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
    )


class SearchNetwork(nn.Module):
    """Network of cells whose architecture is learned.

    Args:
        channels: channels of a node in the first cells, C.
        layers: number of cells.
        in_channels: channels of the images.
        num_classes: number of classes.
        mean: mean of each channel of the images.
        std: standard deviation of each channel.
        **_: other dims of the data.
    """

    def __init__(
        self, channels: int, layers: int, *, in_channels: int, num_classes: int, mean: Any, std: Any, **_: Any
    ) -> None:
        super().__init__()
        self.stem = make_stem(3 * channels, in_channels, mean, std)
        before = last = 3 * channels
        self.cells, after = nn.ModuleList(), False
        self.reductions = [reduction for _, reduction in plan(layers, channels)]
        for cell_channels, reduction in plan(layers, channels):
            self.cells.append(SearchCell(before, last, cell_channels, reduction, after))
            before, last, after = last, NODES * cell_channels, reduction
        self.head = nn.Linear(last, num_classes)
        self.alphas = nn.ParameterList(nn.Parameter(1e-3 * torch.randn(EDGES, len(OPERATIONS))) for _ in range(2))

    def weights(self) -> list[nn.Parameter]:
        """Return the parameters that are no architecture weights."""
        own = {id(alpha) for alpha in self.alphas}
        return [p for p in self.parameters() if id(p) not in own]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        mixed = [torch.softmax(alpha, -1) for alpha in self.alphas]
        before = last = self.stem(x)
        for cell, reduction in zip(self.cells, self.reductions, strict=True):
            before, last = last, cell(before, last, mixed[int(reduction)])
        return self.head(last.mean((2, 3)))

    def genotype(self) -> Genotype:
        """Return the architecture so far."""
        return Genotype(*(parse_genotype(alpha) for alpha in self.alphas))


class Cell(nn.Module):
    """Cell of a genotype; arguments of `SearchCell`.

    Args:
        pairs: the cell's part of the genotype.
        before: channels of the output of the cell before the last one.
        last: channels of the output of the last cell.
        channels: channels of a node.
        reduction: halve the map.
        after_reduction: the last cell has halved it.
    """

    def __init__(
        self,
        pairs: list[tuple[str, int]],
        before: int,
        last: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(cell_inputs(before, last, channels, after_reduction, True))
        self.sources = [source for _, source in pairs]
        self.operations = nn.ModuleList(
            make_operation(name, channels, 2 if reduction and source < 2 else 1, True, False) for name, source in pairs
        )
        self.drop_path = 0.0

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """Return the output of the cell."""
        states = [self.inputs[0](before), self.inputs[1](last)]
        for node in range(NODES):
            states.append(sum(self._edge(e, states) for e in (2 * node, 2 * node + 1)))  # type: ignore[arg-type]
        return torch.cat(states[2:], 1)

    def _edge(self, edge: int, states: list[Tensor]) -> Tensor:
        operation = self.operations[edge]
        out = operation(states[self.sources[edge]])
        if self.training and self.drop_path and not isinstance(operation, nn.Identity):
            keep = 1 - self.drop_path
            out = out * torch.bernoulli(torch.full((len(out), 1, 1, 1), keep, device=out.device)) / keep
        return out


class DartsNetwork(nn.Module):
    """Network of a genotype: 3,349,342 parameters for DARTS_V2 with 36 channels and 20 cells, without auxiliary head.

    Args:
        genotype: cell architectures.
        channels: channels of a node in the first cells, C.
        layers: number of cells.
        drop_path: largest probability with which an edge is dropped in training.
        in_channels: channels of the images.
        num_classes: number of classes.
        mean: mean of each channel of the images.
        std: standard deviation of each channel.
        **_: other dims of the data.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int,
        layers: int,
        drop_path: float = 0.0,
        *,
        in_channels: int,
        num_classes: int,
        mean: Any,
        std: Any,
        **_: Any,
    ) -> None:
        super().__init__()
        self.stem = make_stem(3 * channels, in_channels, mean, std)
        before = last = 3 * channels
        self.cells, after = nn.ModuleList(), False
        for cell_channels, reduction in plan(layers, channels):
            pairs = genotype.reduce if reduction else genotype.normal
            self.cells.append(Cell(pairs, before, last, cell_channels, reduction, after))
            before, last, after = last, NODES * cell_channels, reduction
        self.head = nn.Linear(last, num_classes)
        self.max_drop_path = drop_path

    def set_progress(self, progress: float) -> None:
        """Set the probability of dropped edges by the share of the training that is over."""
        for cell in self.cells:
            cell.drop_path = self.max_drop_path * progress  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.head(last.mean((2, 3)))


def loss_of(network: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of a batch."""
    return cross_entropy(network(batch.x), batch.y)


def hessian_step(gradient_norm: float) -> float:
    """Return the step of the finite difference, 0.01 / ||gradient||."""
    return 0.01 / max(gradient_norm, 1e-12)
