"""Adversarial frontier stitching (Le Merrer, Perez & Tredan, arXiv 1711.01894)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_positive
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource

AFS_ORDER = 251


def fgsm(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return clip(x + eps sign(gradient of the cross-entropy)), in pixel space.

    Shapes: x (N, C, H, W) in [0, 1], y (N,) -> (N, C, H, W).
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(network(x), y), x)
    return (x + eps * gradient.sign()).detach().clamp(0, 1)


class AFS(Scheme):
    """Neighbours of the decision frontier: half true adversaries, half false ones, with the true label.

    A true adversary is an image that FGSM moves out of its class, a false one an image that stays in it; both were
    classified right before. A clean model gets half of the triggers right by construction, or more: a removed
    watermark is to be judged by the null-model rule, never against 1 / classes.

    Args:
        count: number of triggers, even.
        eps: length of the FGSM step for pixels in [0, 1].

    Raises:
        ValueError: the count is odd.
    """

    needs_clean = True
    starts_clean = True

    def __init__(self, count: int = 100, eps: float = 0.25) -> None:
        super().__init__(count)
        check_positive("method.scheme", eps=eps)
        if count % 2:
            raise ValueError(f"method.scheme.count must be even for AFS, got {count}")
        self.eps = eps

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return the first neighbours of either kind in a random order of the training images; see `Scheme`."""
        assert source.clean is not None
        order = torch.randperm(len(source.labels), generator=generator(source.seed, AFS_ORDER))
        kinds: dict[bool, list[tuple[Tensor, Tensor]]] = {True: [], False: []}
        for places in order.split(250):
            x, y = source.images[places].float() / 255, source.labels[places]
            attacked = fgsm(source.clean, x, y, self.eps)
            with torch.no_grad():
                right = source.clean(x).argmax(1) == y
                leaves = source.clean(attacked).argmax(1) != y
            for kind in (True, False):
                chosen = right & (leaves == kind)
                kinds[kind] += list(zip(attacked[chosen], y[chosen], strict=True))
            if min(len(pairs) for pairs in kinds.values()) >= self.count // 2:
                break
        return self._halves(kinds)

    def _halves(self, kinds: dict[bool, list[tuple[Tensor, Tensor]]]) -> TriggerSet:
        half = self.count // 2
        counts = {kind: len(pairs) for kind, pairs in kinds.items()}
        if min(counts.values()) < half:
            raise ValueError(
                f"method.scheme.eps={self.eps} gives {counts[True]} true and {counts[False]} false adversaries, "
                f"{half} of each are needed: choose {'a larger' if counts[True] < half else 'a smaller'} eps"
            )
        pairs = kinds[True][:half] + kinds[False][:half]
        return TriggerSet.of(torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs]))
