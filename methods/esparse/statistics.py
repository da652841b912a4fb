"""What is gathered about the input of a set of linear layers during one pass over the calibration windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from methods.esparse.entropy import Range, add_counts, bounds, entropy_of_counts

KINDS = ("norm", "entropy", "hessian")


@dataclass(frozen=True)
class Needs:
    """What scores and updates ask for: of `KINDS`; bins and range of the entropy's histogram."""

    kinds: frozenset[str] = frozenset()
    bins: int = 100
    range: Range = "channel"


@dataclass
class InputStatistics:
    """Statistics of inputs x (T, C), in float32 whatever the model computes in.

    sequences, tokens: how many were seen; sum_squares, low, high: (C,); hessian: (C, C) float64, sum of x^T x;
    counts: (C, bins) int64 histogram. With `keep` the inputs themselves are kept for the histogram, else a second
    pass counts them: `counting` says which pass this is.
    """

    needs: Needs
    keep: bool = True
    counting: bool = False
    sequences: int = 0
    tokens: int = 0
    sum_squares: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    hessian: Tensor | None = None
    counts: Tensor | None = None
    inputs: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        """x: (B, L, C), or (T, C) as one sequence."""
        sequences = x.shape[0] if x.dim() == 3 else 1
        x = x.reshape(-1, x.shape[-1])
        if self.counting:
            add_counts(self.counts, x, self.low, self.high)
            return
        self.sequences += sequences
        self.tokens += x.shape[0]
        if "norm" in self.needs.kinds:
            squares = torch.linalg.vector_norm(x, dim=0, dtype=torch.float32).square()
            self.sum_squares = squares if self.sum_squares is None else self.sum_squares + squares
        if "hessian" in self.needs.kinds:
            x32 = x.float()
            product = (x32.T @ x32).double()
            self.hessian = product if self.hessian is None else self.hessian.add_(product)
        if "entropy" in self.needs.kinds:
            if self.keep:
                self.inputs.append(x.detach().clone())
            else:
                low, high = bounds(x, "channel")
                self.low = low if self.low is None else torch.minimum(self.low, low)
                self.high = high if self.high is None else torch.maximum(self.high, high)

    def end_pass(self) -> bool:
        """After a pass over all windows: is another one needed?"""
        if "entropy" not in self.needs.kinds or self.counting:
            return False
        channels = (self.inputs[0] if self.inputs else self.low).shape[-1]
        device = (self.inputs[0] if self.inputs else self.low).device
        self.counts = torch.zeros(channels, self.needs.bins, dtype=torch.long, device=device)
        if self.keep:
            x = torch.cat(self.inputs)
            self.inputs.clear()
            self.low, self.high = bounds(x, self.needs.range)
            add_counts(self.counts, x, self.low, self.high)
            return False
        if self.needs.range == "layer":
            self.low, self.high = self.low.min().expand_as(self.low), self.high.max().expand_as(self.high)
        self.counting = True
        return True

    @property
    def entropy(self) -> Tensor:
        """(C,) nats."""
        return entropy_of_counts(self.counts)

    @property
    def mean_square(self) -> Tensor:
        """(C,) mean over the tokens of x^2."""
        return self.sum_squares / self.tokens

    def permuted_hessian(self, permutation: Tensor) -> Tensor:
        """2/n sum of x^T x over n sequences, its channels permuted: (C, C) float64."""
        return self.hessian[permutation][:, permutation] * (2 / self.sequences)


@contextmanager
def watching(layers: Iterable[tuple[nn.Module, InputStatistics]]) -> Iterator[None]:
    """While this lasts, what goes into a layer is added to its statistics."""
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, statistics=statistics: statistics.add(inputs[0]))
        for layer, statistics in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
