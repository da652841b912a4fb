"""Co-teaching (Han et al. 2018): two networks, each of which learns what the other finds easy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.famus.module import NoisyTraining, hits
from methods.famus.pair import Pair


def kept_share(epoch: int, forget_rate: float, gradual: int) -> float:
    """Of the samples of a batch: from 1 in the first epoch down to 1 - forget_rate after `gradual` epochs."""
    if gradual <= 1:
        return 1 - forget_rate
    return 1 - forget_rate * min(epoch / (gradual - 1), 1.0)


def exchanged(first: Tensor, second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the samples that the first and the second network learn: the `count` of least loss by the other one.

    first, second: (n,) losses by each network. -> (count,), (count,).
    """
    for_first, for_second = (losses.detach().topk(count, largest=False).indices for losses in (second, first))
    return for_first, for_second


class CoTeaching(NoisyTraining):
    """Adam on both networks; each learns the samples of least loss by the other. Accuracies are means of the two's.

    Losses, weights and `train/acc` are the first network's. The given `lr` is Adam's; SGD's arguments have no place.

    Args:
        network: the first of the two.
        forget_rate: samples left out at last, as a fraction: the noise rate. gradual: epochs until then.
        decay_from: epoch, from 0, from which on lr goes to 0 in a straight line, and beta1 is `late_beta`.
    """

    def __init__(
        self,
        network: nn.Module,
        forget_rate: float,
        gradual: int = 10,
        lr: float = 0.001,
        decay_from: int = 80,
        late_beta: float = 0.1,
    ) -> None:
        super().__init__(Pair(network), lr)
        if not 0 <= forget_rate < 1:
            raise ValueError(f"method.forget_rate must be in [0, 1), got {forget_rate}")
        self.forget_rate, self.gradual, self.decay_from, self.late_beta = forget_rate, gradual, decay_from, late_beta

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.network.parameters(), self.lr)], []

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        epochs = self.trainer.max_epochs
        if self.current_epoch >= self.decay_from:
            (group,) = self.trainer.optimizers[0].param_groups
            group["lr"] = self.lr * (epochs - self.current_epoch) / (epochs - self.decay_from)
            group["betas"] = (self.late_beta, group["betas"][1])

    def training_step(self, batch: Any, index: int) -> Tensor:
        first, second = (network(batch.x) for network in self.network.networks)
        losses = [self.loss(logits, batch.y) for logits in (first, second)]
        kept = kept_share(self.current_epoch, self.forget_rate, self.gradual)
        count = max(1, int(kept * len(batch.y)))
        mine, theirs = exchanged(*losses, count)
        self.descend(losses[0][mine].mean() + losses[1][theirs].mean())
        share = torch.zeros_like(losses[0], requires_grad=False).index_fill(0, mine, 1 / count)
        return self.record(batch, first, losses[0], share)

    def right(self, batch: Any, top: int = 1) -> Tensor:
        found = [hits(network(batch.x), batch.y, top) for network in self.network.networks]
        return (found[0] + found[1]) / 2
