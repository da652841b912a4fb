"""DivideMix where wrong labels are of a few similar classes: a warm-up that keeps networks from being sure of them."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

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

    def training_step(self, number: int, index: int) -> Tensor:
        if self.current_epoch >= self.warmup:
            return super().training_step(number, index)
        which = int(number >= self.turns[0].steps)
        batch = next(self.turns[which].labelled)
        logits = self.pair[which](batch.x)
        loss = cross_entropy(logits, batch.y) + negative_entropy(logits)
        self.descend(loss)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)
        return loss.detach()
