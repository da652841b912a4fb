"""Outlier weighed layerwise sparsity (OWL, Yin et al. 2024, arXiv 2310.05175): a ratio for each block."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from datasets.checks import check_positive
from methods.esparse.decoder import Decoder, HiddenStates
from methods.esparse.description import matrix
from methods.esparse.scores import Wanda

SMALLEST_RATIO = 0.01  # of a block, in place of a negative one


class OWL:
    """Ratio of each block by its share of outliers: blocks with more outliers keep more weights.

    An outlier is a weight whose Wanda score exceeds `multiple` times the mean score of its block, in the dense model.

    Args:
        multiple: M of the paper.
        deviation: largest deviation lambda of a block's ratio: ratios span 2 lambda around the mean.

    Raises:
        ValueError: if an argument is not positive.
    """

    required = Wanda.required

    def __init__(self, multiple: float = 5.0, deviation: float = 0.08) -> None:
        check_positive("method.allocation", multiple=multiple, deviation=deviation)
        self.multiple, self.deviation = multiple, deviation

    def check(self, ratio: float) -> None:
        """Raise ValueError if a block could lose all of its weights; ratio: share to prune in the whole model."""
        largest = ratio + 2 * self.deviation
        if largest >= 1:
            raise ValueError(
                f"method.allocation can give a block the ratio method.ratio + 2 method.allocation.deviation = "
                f"{largest:.4g}, which must stay below 1: choose a deviation below {(1 - ratio) / 2:.4g}, or a smaller "
                "ratio"
            )

    @torch.inference_mode()
    def ratios(
        self,
        decoder: Decoder,
        states: HiddenStates,
        ratio: float,
        statistics: Callable,
        track: Callable[[range, str], Iterable[int]],
    ) -> list[float]:
        """Return the share of pruned weights of each block, whose mean is `ratio`.

        Args:
            decoder: dense model.
            states: hidden states before the first block; they are changed.
            ratio: share of the weights to prune in the whole model.
            statistics: gathers the statistics of an open block: (decoder, block, states) -> by the name of the set.
            track: shows the progress over the blocks.
        """
        shares = []
        for i in track(range(len(decoder)), "outliers, block"):
            with decoder.block(i) as block:
                found = statistics(decoder, block, states)
                scores = [Wanda()(matrix(block, name), found[s.name]) for s in decoder.sets(i) for name in s.linears]
                shares.append(outlier_share(scores, self.multiple))
                decoder.run_block(block, states)
        return layer_ratios(shares, ratio, self.deviation)


def outlier_share(scores: list[Tensor], multiple: float) -> float:
    """Return the share of scores that exceed `multiple` times the mean of all."""
    count = sum(score.numel() for score in scores)
    mean = sum(score.sum(dtype=torch.float64).item() for score in scores) / count
    return sum(int((score > multiple * mean).sum().item()) for score in scores) / count


def layer_ratios(shares: list[float], ratio: float, deviation: float) -> list[float]:
    """Return the share of pruned weights of each block.

    The kept share is a linear function of the share of outliers, with a span of 2 `deviation` and the mean 1 - `ratio`.

    Args:
        shares: share of outliers of each block.
        ratio: share of pruned weights in the mean.
        deviation: half of the span.
    """
    span = max(shares) - min(shares)
    kept = [2 * deviation * (share - min(shares)) / span if span else 0.0 for share in shares]
    mean = sum(kept) / len(kept)
    return [ratio - k + mean if ratio - k + mean > 0 else SMALLEST_RATIO for k in kept]
