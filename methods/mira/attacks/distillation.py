"""Distillation of the marked model into a new one of the same architecture (Hinton et al. 2015)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from datasets.checks import check_positive
from methods.attacks import seeded
from methods.mira.attack_data import AttackData
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.fine_tuning_loop import SGD, Observer, fine_tune


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), averaged over images.

    Shapes: student (B, C), teacher (B, C) logits -> ().
    """
    student, teacher = log_softmax(student / temperature, 1), log_softmax(teacher / temperature, 1)
    return temperature**2 * kl_div(student, teacher, reduction="batchmean", log_target=True)


class Distillation(RemovalAttack):
    """A new model learns the marked model's softened predictions on the attacker's images.

    Args:
        sgd: settings.
        temperature: temperature T (Watermark Robustness Toolbox: 3).

    Raises:
        ValueError: the temperature is not positive.
    """

    def __init__(self, sgd: SGD | None = None, temperature: float = 3.0) -> None:
        super().__init__()
        check_positive("method.attack", temperature=temperature)
        self.sgd, self.temperature = sgd or SGD(lr=0.1, epochs=60), temperature

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the student; see `RemovalAttack`."""
        teacher, student = network.eval(), copy.deepcopy(network)
        with seeded(data.seed, torch.device("cpu")):
            student.cpu().reset_parameters()  # type: ignore[operator]
        student.to(data.images.device)

        def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, _ = batch
            with torch.no_grad():
                target = teacher(x)
            return distillation_loss(network(x), target, self.temperature)

        return fine_tune(student, self.sgd, lambda epoch: data.batches(self.sgd.batch_size, epoch), loss, observe)
