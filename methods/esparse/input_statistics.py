"""Statistics of the input of linear layers, gathered in one or two passes over the calibration windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from methods.esparse.entropy import HistogramRange, add_counts, entropy_of_counts, histogram_bounds


@dataclass(frozen=True)
class RequiredStatistics:
    """Statistics that scores and weight updates need.

    Args:
        kinds: names among "norm", "entropy", "hessian" and "moments".
        bins: number of bins of the entropy's histogram.
        histogram_range: range of the entropy's histogram.
    """

    kinds: frozenset[str] = frozenset()
    bins: int = 100
    histogram_range: HistogramRange = "channel"


@dataclass
class InputStatistics:
    """Statistics of inputs x (T, C), in float32 whatever the dtype of the model.

    Args:
        required: statistics to gather.
        keep_inputs: keep the inputs in memory for the histogram; otherwise a second pass counts them.

    Attributes:
        second_pass: whether the present pass fills the histogram.
        sequences: number of sequences seen.
        tokens: number of tokens seen.
        sum_squares: (C,) sum of x^2 over the tokens.
        low, high: (C,) ends of the histogram's range.
        hessian: (C, C) float64, x^T x.
        sum_values: (C,) sum of x over the tokens.
        sum_variances: (C,) sum over the sequences of their variance times their number of tokens.
        counts: (C, bins) int64 histogram.
        inputs: inputs that are kept.
        reached: False if the inputs are made up, since no token has reached an expert.
    """

    required: RequiredStatistics
    keep_inputs: bool = True
    second_pass: bool = False
    sequences: int = 0
    tokens: int = 0
    sum_squares: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    hessian: Tensor | None = None
    sum_values: Tensor | None = None
    sum_variances: Tensor | None = None
    counts: Tensor | None = None
    inputs: list[Tensor] = field(default_factory=list)
    reached: bool = True

    def add(self, x: Tensor) -> None:
        """Add inputs of shape (B, L, C), or (T, C) as one sequence."""
        sequences = x.shape[0] if x.dim() == 3 else 1
        windows = x if x.dim() == 3 else x[None]
        x = x.reshape(-1, x.shape[-1])
        if self.second_pass:
            add_counts(_gathered(self.counts), x, _gathered(self.low), _gathered(self.high))
            return
        self.sequences += sequences
        self.tokens += x.shape[0]
        if "norm" in self.required.kinds:
            squares = torch.linalg.vector_norm(x, dim=0, dtype=torch.float32).square()
            self.sum_squares = squares if self.sum_squares is None else self.sum_squares + squares
        if "hessian" in self.required.kinds:
            x32 = x.float()
            product = (x32.T @ x32).double()
            self.hessian = product if self.hessian is None else self.hessian.add_(product)
        if "moments" in self.required.kinds:
            self._add_moments(windows.float())
        if "entropy" in self.required.kinds:
            self._add_to_range(x)

    def _add_moments(self, windows: Tensor) -> None:
        """Add sums and variances of windows (B, L, C)."""
        values = windows.sum((0, 1))
        variances = windows.var(1, unbiased=False).sum(0) * windows.shape[1]
        self.sum_values = values if self.sum_values is None else self.sum_values + values
        self.sum_variances = variances if self.sum_variances is None else self.sum_variances + variances

    def _add_to_range(self, x: Tensor) -> None:
        """Keep the inputs, or widen the histogram's range to hold them."""
        if self.keep_inputs:
            self.inputs.append(x.detach().clone())
            return
        low, high = histogram_bounds(x, "channel")
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def end_pass(self) -> bool:
        """Finish a pass over all windows. Return whether another pass is needed."""
        if "entropy" not in self.required.kinds or self.second_pass:
            return False
        if self.keep_inputs:
            x = torch.cat(self.inputs)
            self.inputs.clear()
            self.low, self.high = histogram_bounds(x, self.required.histogram_range)
            self.counts = self._empty_histogram(self.low)
            add_counts(self.counts, x, self.low, self.high)
            return False
        low, high = _gathered(self.low), _gathered(self.high)
        self.counts = self._empty_histogram(low)
        if self.required.histogram_range == "layer":
            self.low, self.high = low.min().expand_as(low), high.max().expand_as(high)
        self.second_pass = True
        return True

    def _empty_histogram(self, channels: Tensor) -> Tensor:
        return torch.zeros(len(channels), self.required.bins, dtype=torch.long, device=channels.device)

    @property
    def entropy(self) -> Tensor:
        """Entropy of each channel (C,), in nats."""
        return entropy_of_counts(_gathered(self.counts))

    @property
    def mean_square(self) -> Tensor:
        """Mean of x^2 over the tokens (C,)."""
        return _gathered(self.sum_squares) / self.tokens

    @property
    def norm(self) -> Tensor:
        """Norm of each channel (C,) with its square divided by the number of sequences, as in Wanda's code."""
        return (_gathered(self.sum_squares) / self.sequences).sqrt()

    @property
    def channel_sum(self) -> Tensor:
        """Sum of each channel over the tokens (C,), divided by the number of sequences."""
        return _gathered(self.sum_values) / self.sequences

    @property
    def variance(self) -> Tensor:
        """Mean of the variances of the sequences (C,), weighted by their lengths."""
        return _gathered(self.sum_variances) / self.tokens

    def permuted_hessian(self, permutation: Tensor) -> Tensor:
        """Return 2/n x^T x for n sequences, with the channels permuted: (C, C) float64 (SparseGPT's Hessian)."""
        return _gathered(self.hessian)[permutation][:, permutation] * (2 / self.sequences)


def _gathered(statistic: Tensor | None) -> Tensor:
    if statistic is None:
        raise RuntimeError("a statistic is used that `required` does not name")
    return statistic


@contextmanager
def record_inputs(layers: Iterable[tuple[nn.Module, InputStatistics]]) -> Iterator[None]:
    """Add the inputs of layers to their statistics while the context is open."""
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, statistics=statistics: statistics.add(inputs[0]))
        for layer, statistics in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
