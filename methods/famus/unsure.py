"""DivideMix where wrong labels are of a few similar classes: a warm-up that keeps networks from being sure of them."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from methods.famus.pseudo import DivideMix


def negative_entropy(logits: Tensor) -> Tensor:
    """Mean over (n, K) logits of sum_c p_c log p_c of their softmax p, in nats: from -log K (unsure) to 0 (sure)."""
    logs = log_softmax(logits, 1)
    return (logs.exp() * logs).sum(1).mean()


class UnsureWarmUp(DivideMix):
    """`DivideMix` whose warm-up adds the negative entropy of the predictions to the cross-entropy, as its authors do
    for asymmetric noise alone (Li et al. 2020, section 3.2): networks that are soon sure of wrong labels have no losses
    that tell them from right ones. After the warm-up there is no difference. Arguments and metrics: of `DivideMix`.
    """

    def warmup_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().warmup_loss(logits, y) + negative_entropy(logits)
