"""HAT: helper-based adversarial training (Rade & Moosavi-Dezfooli, ICLR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from datasets.checks import check_not_negative
from methods.architectures.classifier import Classifier
from methods.f2at.objective import Logs, Objective, accuracy, kl_divergence


class HAT(Objective):
    """TRADES' loss plus the cross-entropy of helper images, which lie further out than the attacked ones.

    A helper image is x + h (adv - x). Its label is the prediction of a naturally trained helper network for the
    attacked image. Clean images pass through the network once, as in imrahulr/hat.

    Args:
        beta: weight of the divergence of attacked predictions.
        gamma: weight of the helper images' loss.
        h: distance of a helper image from x, relative to that of the attacked one.
    """

    def __init__(self, beta: float = 2.5, gamma: float = 0.5, h: float = 2.0) -> None:
        super().__init__()
        check_not_negative("method.objective", beta=beta, gamma=gamma, h=h)
        self.beta, self.gamma, self.h = beta, gamma, h

    def prepare(self, network: Classifier, helper: Classifier | None) -> None:
        """Take the naturally trained network.

        Raises:
            ValueError: if there is none.
        """
        if helper is None:
            raise ValueError(
                "HAT needs a naturally trained network: name the run that trains it under `needs`, as "
                "conf/method/f2at/hat.yaml does"
            )
        self.helper = helper.requires_grad_(False)

    def forward(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss and the metrics to log; see `Objective`."""
        with torch.no_grad():
            label = self.helper.eval()(adv).argmax(1)
        clean, attacked = network(x), network(adv)
        outside = network(x + self.h * (adv - x))
        loss = cross_entropy(clean, y) + self.beta * kl_divergence(attacked, clean)
        loss = loss + self.gamma * cross_entropy(outside, label)
        return loss, {"acc": accuracy(clean, y), "adv_acc": accuracy(attacked, y)}
