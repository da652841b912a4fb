"""Co-teaching (Han et al. 2018, arXiv 1804.06872): each of two networks learns the small-loss samples of the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_count, check_not_negative
from methods.epochs import number_of_epochs
from methods.famus.module import NoisyTraining, correct_in_top_k
from methods.famus.network_pair import NetworkPair


def remember_rate(epoch: int, forget_rate: float, gradual_epochs: int) -> float:
    """Return R(T), the fraction of samples kept: 1 in the first epoch, 1 - forget_rate after `gradual_epochs`.

    Args:
        epoch: epoch T, from 0.
        forget_rate: fraction of samples left out at last.
        gradual_epochs: number of epochs in which the fraction falls linearly (T_k).
    """
    if gradual_epochs <= 1:
        return 1 - forget_rate
    return 1 - forget_rate * min(epoch / (gradual_epochs - 1), 1.0)


def exchange_small_losses(first: Tensor, second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Select the samples that each network learns: those with the smallest losses under the other network.

    Args:
        first: losses (n,) under the first network.
        second: losses (n,) under the second network.
        count: number of samples to select.

    Returns:
        Indices (count,) for the first and for the second network.
    """
    for_first, for_second = (losses.detach().topk(count, largest=False).indices for losses in (second, first))
    return for_first, for_second


class CoTeaching(NoisyTraining):
    """Co-teaching with Adam. Validation and test accuracies are means over both networks.

    Losses, weights and train/acc are those of the first network.

    Args:
        network: the first network; the second is another draw of it.
        forget_rate: fraction of samples left out at last; the noise rate.
        gradual_epochs: number of epochs until then (T_k).
        lr: learning rate of Adam.
        decay_start: epoch, from 0, from which the rate falls linearly to 0 and beta1 is `late_beta1`.
        late_beta1: beta1 of Adam from `decay_start` on.
    """

    def __init__(
        self,
        network: nn.Module,
        forget_rate: float,
        gradual_epochs: int = 10,
        lr: float = 0.001,
        decay_start: int = 80,
        late_beta1: float = 0.1,
    ) -> None:
        super().__init__(NetworkPair(network), lr)
        if not 0 <= forget_rate < 1:
            raise ValueError(f"method.forget_rate must be in [0, 1), got {forget_rate}")
        check_count("method", gradual_epochs=gradual_epochs)
        check_not_negative("method", decay_start=decay_start)
        if not 0 <= late_beta1 < 1:
            raise ValueError(f"method.late_beta1 must be in [0, 1), got {late_beta1}")
        self.forget_rate, self.gradual_epochs = forget_rate, gradual_epochs
        self.decay_start, self.late_beta1 = decay_start, late_beta1

    def configure_optimizers(self) -> Any:
        """Return Adam over both networks."""
        return [torch.optim.Adam(self.network.parameters(), self.lr)], []

    def on_train_epoch_start(self) -> None:
        """Set Adam's learning rate and beta1 of the epoch."""
        super().on_train_epoch_start()
        if self.current_epoch >= self.decay_start:
            epochs = number_of_epochs(self.trainer)
            (group,) = self.trainer.optimizers[0].param_groups
            group["lr"] = self.lr * (epochs - self.current_epoch) / (epochs - self.decay_start)
            group["betas"] = (self.late_beta1, group["betas"][1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train both networks on the samples that they exchange."""
        first, second = (network(batch.x) for network in self.network.networks)
        first_losses, second_losses = (self.loss(logits, batch.y) for logits in (first, second))
        kept = remember_rate(self.current_epoch, self.forget_rate, self.gradual_epochs)
        count = max(1, int(kept * len(batch.y)))
        for_first, for_second = exchange_small_losses(first_losses, second_losses, count)
        self.update_network(first_losses[for_first].mean() + second_losses[for_second].mean())
        weights = torch.zeros_like(first_losses, requires_grad=False).index_fill(0, for_first, 1 / count)
        return self.log_batch(batch, first, first_losses, weights)

    def correct(self, batch: Any, top_k: int = 1) -> Tensor:
        """Return (n,), the fraction of the networks that are right on each image."""
        first, second = (correct_in_top_k(network(batch.x), batch.y, top_k) for network in self.network.networks)
        return (first + second) / 2
