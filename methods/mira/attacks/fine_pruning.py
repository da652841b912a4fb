"""Fine-pruning (Liu, Dolan-Gavitt & Garg, RAID 2018): channels that clean data leaves silent are cut, then tuned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datasets.checks import check_fraction
from methods.mira.attack_data import AttackData
from methods.mira.attacks.attack import RemovalAttack
from methods.mira.fine_tuning_loop import SGD, Observer, batch_cross_entropy, fine_tune


@torch.no_grad()
def dormant_features(network: nn.Module, x: Tensor, ratio: float) -> Tensor:
    """Return which inputs of the head have the lowest mean activation over the images.

    Args:
        network: classifier, in eval mode.
        x: images (N, C, H, W).
        ratio: share of the features.

    Returns:
        (D,) bool.
    """
    mean = torch.cat([network.features(part) for part in x.split(500)]).mean(0)  # type: ignore[operator]
    dormant = torch.zeros_like(mean, dtype=torch.bool)
    dormant[mean.argsort(stable=True)[: round(ratio * len(mean))]] = True
    return dormant


class FinePruning(RemovalAttack):
    """Cut of the features of the head that clean images activate least, and fine-tuning.

    The features are the channels of the last stage after the average, or the last hidden units of LeNet-5. Cutting a
    feature is setting its column of the head's weights to zero, which stays zero in fine-tuning. The Watermark
    Robustness Toolbox cuts 96 % of the units of one stage.

    Args:
        sgd: settings of fine-tuning.
        ratio: share of the features that are cut.

    Raises:
        ValueError: the ratio is not in [0, 1].
    """

    def __init__(self, sgd: SGD | None = None, ratio: float = 0.5) -> None:
        super().__init__()
        check_fraction("method.attack", ratio=ratio)
        self.sgd, self.ratio = sgd or SGD(), ratio

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the pruned and fine-tuned model; see `RemovalAttack`."""
        dormant = dormant_features(network.eval(), data.images, self.ratio)

        def cut(network: nn.Module) -> None:
            head = network.head
            assert isinstance(head, nn.Linear)
            with torch.no_grad():
                head.weight[:, dormant] = 0

        cut(network)
        return fine_tune(
            network,
            self.sgd,
            lambda epoch: data.batches(self.sgd.batch_size, epoch),
            batch_cross_entropy,
            observe,
            after_step=cut,
        )
