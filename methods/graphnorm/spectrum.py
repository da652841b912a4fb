"""Singular values of the aggregation matrix with and without the shift (paper, section 3.1 and figure 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from datasets.graphs.store import GraphBatch
from methods.plots import COLUMN_WIDTH

ZERO = 1e-9  # singular values below this share of the largest count as 0


def q_gin(adjacency: Tensor, xi: float = 0.0) -> Tensor:
    """Return the aggregation matrix of GIN, A + (1 + xi) I: (n, n) -> (n, n)."""
    return adjacency + (1 + xi) * torch.eye(len(adjacency), dtype=adjacency.dtype, device=adjacency.device)


def q_gcn(adjacency: Tensor) -> Tensor:
    """Return the aggregation matrix of GCN, D^-1/2 (A + I) D^-1/2 with D the row sums of A + I: (n, n) -> (n, n)."""
    looped = q_gin(adjacency)
    scale = looped.sum(1).rsqrt()
    return scale[:, None] * looped * scale


def shifted(q: Tensor) -> Tensor:
    """Return Q N with N = I - 1 1^T / n, which subtracts the mean over a graph's nodes: (n, n) -> (n, n)."""
    return q - q.mean(1, keepdim=True)


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values in descending order, by a full decomposition: (n, n) -> (n,)."""
    return torch.linalg.svdvals(matrix)


def interlaces(q: Tensor, qn: Tensor) -> bool:
    """Return whether theorem 3.1 holds up to rounding: q_1 >= qn_1 >= q_2 >= ... >= q_n >= qn_n = 0.

    Args:
        q: (n,) singular values of Q in descending order.
        qn: (n,) singular values of Q N in descending order.
    """
    slack = ZERO * float(q[0])
    return bool((qn <= q + slack).all() and (q[1:] <= qn[:-1] + slack).all() and qn[-1] <= slack)


def log10_condition(values: Tensor) -> float | None:
    """Return log10 of the largest over the smallest non-zero singular value, or None if all are 0.

    Args:
        values: (n,) singular values in descending order.
    """
    positive = values[values > ZERO * values[0].clamp(min=1)]
    return float(torch.log10(positive[0] / positive[-1])) if len(positive) else None


def dense_adjacencies(graphs: GraphBatch) -> Iterator[Tensor]:
    """Yield the dense adjacency matrix of each graph of a batch, (n, n) float64."""
    crow, col, value = graphs.adj.crow_indices(), graphs.adj.col_indices(), graphs.adj.values().double()
    row = torch.repeat_interleave(crow.diff())
    first = 0
    for n in graphs.sizes.tolist():
        edges = slice(int(crow[first]), int(crow[first + n]))
        dense = torch.zeros(n, n, dtype=torch.float64, device=col.device)
        dense[row[edges] - first, col[edges] - first] = value[edges]
        yield dense
        first += n


class Spectrum(LightningModule):
    """Singular values of Q and Q N of GIN and GCN for every graph of the held-out fold, in float64, without training.

    Metrics, each a mean over the fold's graphs (likewise for `gcn`):
        test/gin_largest_q, test/gin_largest_qn: largest singular value.
        test/gin_shrinkage: largest singular value of Q N over that of Q.
        test/gin_log10_condition_q, test/gin_log10_condition_qn: log10 of the largest over the smallest non-zero
            singular value, of the graphs whose Q N is not 0.
        test/gin_interlacing: share of the graphs for which theorem 3.1 holds, so 1.
        test/nodes: number of nodes.

    Args:
        network: network that the runner builds; unused, since Q depends on the graph alone.
        xi: xi of Q_GIN = A + (1 + xi) I.
        graphs: positions, within the held-out fold, of the graphs that the figure shows.

    Raises:
        ValueError: `graphs` is empty or has a negative position.
    """

    tasks = ("graph-classification",)

    def __init__(self, network: nn.Module | None = None, xi: float = 0.0, graphs: Sequence[int] = (0,)) -> None:
        super().__init__()
        if not graphs or min(graphs) < 0:
            raise ValueError(f"method.graphs must be positions from 0 within the held-out fold, got {list(graphs)}")
        self.xi, self.graphs = xi, list(graphs)
        self.spectra: dict[str, list[tuple[Tensor, Tensor]]] = {"gin": [], "gcn": []}

    def test_step(self, graphs: GraphBatch, batch_idx: int) -> None:
        """Decompose the matrices of each graph of a batch."""
        for adjacency in dense_adjacencies(graphs):
            for name, q in (("gin", q_gin(adjacency, self.xi)), ("gcn", q_gcn(adjacency))):
                spectrum = singular_values(q).cpu(), singular_values(shifted(q)).cpu()
                self.spectra[name].append(spectrum)
                self._log({f"test/{name}_{key}": value for key, value in spectrum_metrics(*spectrum).items()})
            self._log({"test/nodes": float(len(adjacency))})

    def _log(self, metrics: dict[str, float]) -> None:
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def figures(self) -> dict[str, Any]:
        """Return a figure of the singular values of the chosen graphs, and of the largest ones of all graphs."""
        return {"singular_values": draw_spectra(self.spectra, self.graphs)}


def spectrum_metrics(q: Tensor, qn: Tensor) -> dict[str, float]:
    """Return the metrics of one graph.

    Args:
        q: (n,) singular values of Q in descending order.
        qn: (n,) singular values of Q N in descending order.
    """
    metrics = {"largest_q": float(q[0]), "largest_qn": float(qn[0]), "shrinkage": float(qn[0] / q[0])}
    metrics["interlacing"] = float(interlaces(q, qn))
    condition = log10_condition(qn)
    if condition is not None:
        metrics |= {"log10_condition_q": log10_condition(q) or 0.0, "log10_condition_qn": condition}
    return metrics


def draw_spectra(spectra: dict[str, list[tuple[Tensor, Tensor]]], graphs: Sequence[int]) -> Any:
    """Draw a column for each aggregation, with a row for each chosen graph and one of all graphs' shrinkage by size.

    Args:
        spectra: singular values of Q and Q N of each graph, by aggregation, "gin" and "gcn".
        graphs: positions of the chosen graphs.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = [g for g in graphs if g < len(spectra["gin"])]
    height = 1.3 * (len(rows) + 1)
    figure, axes = plt.subplots(len(rows) + 1, 2, figsize=(COLUMN_WIDTH, height), squeeze=False, layout="constrained")
    for column, (name, label) in zip(axes.T, (("gin", "GIN"), ("gcn", "GCN")), strict=True):
        for ax, g in zip(column, rows, strict=False):
            q, qn = spectra[name][g]
            index = range(1, len(q) + 1)
            q_style, qn_style = ("-", "--") if len(q) > 40 else ("o-", "s--")
            ax.plot(index, q, q_style, markersize=2.5, linewidth=0.9, color="#0072B2", label="$Q$")
            ax.plot(index, qn, qn_style, markersize=2, linewidth=0.9, color="#D55E00", label="$QN$")
            ax.set(title=f"{label}, graph {g} ({len(q)} nodes)", xlabel="index", ylim=(0, 1.08 * float(q[0])))
            ax.locator_params(axis="x", integer=True)
        ratios = [(len(q), float(qn[0] / q[0])) for q, qn in spectra[name]]
        column[-1].plot(*zip(*ratios, strict=True), "o", markersize=2.5, alpha=0.5, color="#009E73", markeredgewidth=0)
        column[-1].set(title=f"{label}, {len(ratios)} graphs", xlabel="nodes", ylim=(0, 1.08), xscale="log")
        wide = max(ratios)[0] > 50 * min(ratios)[0]
        column[-1].xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        column[-1].xaxis.set_major_formatter("{x:g}")
        column[-1].xaxis.set_minor_formatter(NullFormatter())
    for ax in axes[:-1, 0]:
        ax.set_ylabel("singular value")
    axes[-1, 0].set_ylabel(r"largest of $QN$ / of $Q$")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    if rows:
        axes[0, 0].legend()
    return figure
