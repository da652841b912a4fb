"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, nll_loss, softmax

from datasets.checks import check_not_negative
from methods.architectures.classifier import Classifier
from methods.f2at.objective import Logs, Objective, accuracy


class MART(Objective):
    """Boosted cross-entropy on attacked images plus a divergence that counts more where clean images are wrong.

    Equations 8 to 11 of the paper, with the constants of YisenWang/MART.

    Args:
        beta: weight of the divergence (lambda in the paper).
    """

    def __init__(self, beta: float = 5.0) -> None:
        super().__init__()
        check_not_negative("method.objective", beta=beta)
        self.beta = beta

    def forward(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss and the metrics to log; see `Objective`."""
        clean, attacked = network(x), network(adv)
        p, p_adv = softmax(clean, dim=1), softmax(attacked, dim=1)
        runner_up = p_adv.scatter(1, y[:, None], -1.0).argmax(1)
        boosted = cross_entropy(attacked, y) + nll_loss(torch.log(1.0001 - p_adv + 1e-12), runner_up)
        wrongness = 1.0000001 - p.gather(1, y[:, None]).squeeze(1)
        divergences = kl_div(torch.log(p_adv + 1e-12), p, reduction="none").sum(1)
        loss = boosted + self.beta * (divergences * wrongness).mean()
        return loss, {"acc": accuracy(clean, y), "adv_acc": accuracy(attacked, y)}
