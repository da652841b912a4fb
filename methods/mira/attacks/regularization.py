"""Regularization attack (Shafieinejad et al., arXiv 1906.07745): strong weight decay, then ordinary fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from datasets.checks import check_positive
from methods.mira.attack_data import AttackData
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.fine_tuning_loop import SGD, Observer, batch_cross_entropy, fine_tune


class Regularization(RemovalAttack):
    """Fine-tuning with strong weight decay, then with the ordinary one, on labels that the marked model predicts.

    Args:
        sgd: settings of the second phase; the first takes its rate and batches.
        strong_decay: weight decay of the first phase (Watermark Robustness Toolbox: 0.1).
        strong_epochs: number of epochs of the first phase.

    Raises:
        ValueError: a value is not positive.
    """

    def __init__(self, sgd: SGD | None = None, strong_decay: float = 0.1, strong_epochs: int = 5) -> None:
        super().__init__()
        check_positive("method.attack", strong_decay=strong_decay, strong_epochs=strong_epochs)
        self.sgd = sgd or SGD()
        self.strong = replace(self.sgd, weight_decay=strong_decay, epochs=strong_epochs)

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the model after both phases; see `RemovalAttack`."""
        data = data.labelled_by(network)
        for phase, sgd in enumerate((self.strong, self.sgd)):
            first = phase * self.strong.epochs

            def batches(epoch: int, first: int = first) -> object:
                return data.batches(self.sgd.batch_size, first + epoch)

            network = fine_tune(network, sgd, batches, batch_cross_entropy, observe)  # type: ignore[arg-type]
        return network
