"""Fine-tuning of the last layer or of all layers, with a new last layer or the old one (Adi et al. 2018)."""

from __future__ import annotations

from torch import nn

from methods.attacks import seeded
from methods.mira.attack_data import AttackData
from methods.mira.attacks.attack import RemovalAttack, head_parameters, reset_head
from methods.mira.fine_tuning_loop import SGD, Observer, batch_cross_entropy, fine_tune


class FineTuning(RemovalAttack):
    """Fine-tuning by cross-entropy: FTLL, FTAL, RTLL and RTAL.

    The settings are those of MIRA's own fine-tuning, so that all attacks have the same budget; Adi et al. take 20
    epochs at 0.01.

    Args:
        sgd: settings.
        all_layers: train all layers (FTAL, RTAL), else the last one (FTLL, RTLL).
        reset: start from a new last layer (RTLL, RTAL).
    """

    def __init__(self, sgd: SGD | None = None, all_layers: bool = True, reset: bool = False) -> None:
        super().__init__()
        self.sgd, self.all_layers, self.reset = sgd or SGD(), all_layers, reset

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the fine-tuned model; see `RemovalAttack`."""
        if self.reset:
            with seeded(data.seed, data.images.device):
                reset_head(network)
        if not self.all_layers:
            network.requires_grad_(False)
            for parameter in head_parameters(network):
                parameter.requires_grad_(True)
        tuned = fine_tune(
            network, self.sgd, lambda epoch: data.batches(self.sgd.batch_size, epoch), batch_cross_entropy, observe
        )
        return tuned.requires_grad_(True)
