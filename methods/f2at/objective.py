"""Base class of training objectives, which is adversarial training itself, and losses that several of them share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from methods.architectures.classifier import Classifier
from methods.attacks import Attack
from methods.f2at.bitplanes import BitPlanes

Logs = dict[str, Tensor]


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Return the mean over the batch of KL(softmax(reference) || softmax(logits)); gradient flows into both.

    Shapes: (B, C), (B, C) -> ().
    """
    return kl_div(log_softmax(logits, dim=1), softmax(reference, dim=1), reduction="sum") / len(logits)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of right predictions.

    Shapes: logits (B, C), y (B,) -> ().
    """
    return (logits.detach().argmax(1) == y).float().mean()


class Objective(nn.Module):
    """Cross-entropy on attacked images (PGD-AT, Madry et al. 2018).

    Subclasses change how images are perturbed for training, or the loss.
    """

    bit_planes = BitPlanes()  # cut of the figure of patterns

    def prepare(self, network: Classifier, helper: Classifier | None) -> None:
        """Build what the objective needs besides the network, before the training.

        Args:
            network: network to be trained.
            helper: network of another run, if the method's `needs` name one.
        """

    def perturb(self, attack: Attack, network: Classifier, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Return the images to train on.

        Args:
            attack: attack of the training.
            network: network to attack.
            x: clean images in [0, 1].
            y: labels.
            progress: share of the training that is over.

        Shapes: x (B, C, H, W), y (B,) -> (B, C, H, W).
        """
        return attack(network, x, y)

    def forward(self, network: Classifier, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """Return the loss and the metrics to log.

        Args:
            network: network to be trained, in train mode.
            x: clean images in [0, 1].
            adv: images that `perturb` returned for x.
            y: labels.
            progress: share of the training that is over.

        Shapes: x (B, C, H, W), adv (B, C, H, W), y (B,) -> ().
        """
        logits = network(adv)
        return cross_entropy(logits, y), {"adv_acc": accuracy(logits, y)}
