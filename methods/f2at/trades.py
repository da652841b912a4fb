"""TRADES (Zhang et al., ICML 2019)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from datasets.checks import check_not_negative
from methods.architectures.classifier import Classifier
from methods.f2at.objective import Logs, Objective, accuracy, kl_divergence


class TRADES(Objective):
    """Cross-entropy on clean images plus `beta` times the divergence of the predictions on attacked ones.

    The network sees the batch clean, attacked and clean again, as in yaodongyu/TRADES: batch norm's running statistics
    take in all three passes, in this order. (Wu et al.'s code of TRADES-AWP has the order attacked, clean, clean.)

    Args:
        beta: weight of the divergence (1 / lambda in the paper).
    """

    def __init__(self, beta: float = 6.0) -> None:
        super().__init__()
        check_not_negative("method.objective", beta=beta)
        self.beta = beta

    def forward(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss and the metrics to log; see `Objective`."""
        clean, attacked = network(x), network(adv)
        loss = cross_entropy(clean, y) + self.beta * kl_divergence(attacked, network(x))
        return loss, {"acc": accuracy(clean, y), "adv_acc": accuracy(attacked, y)}
