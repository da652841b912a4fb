"""LBGAT: learnable boundary guided adversarial training (Cui et al., ICCV 2021)."""

from __future__ import annotations

import copy

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from datasets.checks import check_not_negative
from methods.architectures.classifier import Classifier
from methods.f2at.objective import Logs, Objective, accuracy, kl_divergence


class LBGAT(Objective):
    """Attacked logits follow those of a teacher, which learns the clean images at the same time.

    The teacher has the network's architecture and starts from other weights of the same initialisation. In the paper it
    is a ResNet-18, whatever the network is.

    Args:
        beta: weight of TRADES' divergence; 0 leaves it out.
    """

    def __init__(self, beta: float = 6.0) -> None:
        super().__init__()
        check_not_negative("method.objective", beta=beta)
        self.beta = beta

    def prepare(self, network: Classifier, helper: Classifier | None) -> None:
        """Build the teacher."""
        self.teacher: Classifier = copy.deepcopy(network)
        self.teacher.reset_parameters()

    def forward(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss and the metrics to log; see `Objective`."""
        attacked, guide = network(adv), self.teacher(x)
        loss = mse_loss(attacked, guide) + cross_entropy(guide, y)
        logs = {"adv_acc": accuracy(attacked, y), "teacher_acc": accuracy(guide, y)}
        if self.beta:
            clean = network(x)
            loss = loss + self.beta * kl_divergence(attacked, clean)
            logs["acc"] = accuracy(clean, y)
        return loss, logs
