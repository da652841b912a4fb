"""FAT: friendly adversarial training (Zhang et al., ICML 2020)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from datasets.checks import check_count
from methods.architectures.classifier import Classifier
from methods.attacks import PGD, Attack
from methods.f2at.lr_schedules import epochs_at
from methods.f2at.objective import Objective


class FriendlyAdversarialTraining(Objective):
    """Cross-entropy on images whose attack stops soon after they are misclassified (early-stopped PGD).

    Args:
        epochs: rising epochs at which tau changes; the first is 0.
        tau: number of steps that an image still makes after it is misclassified, from each of these epochs on.
        total_epochs: length of the training that `epochs` refer to; they are scaled to trainings of other lengths.
    """

    def __init__(
        self, epochs: tuple[int, ...] = (0, 50, 90), tau: tuple[int, ...] = (0, 1, 2), total_epochs: int = 120
    ) -> None:
        super().__init__()
        check_count("method.objective", total_epochs=total_epochs)
        if len(epochs) != len(tau) or 0 not in epochs or min(tau, default=-1) < 0:
            raise ValueError(
                "method.objective needs one tau of at least 0 for each of its epochs, and an epoch 0 among them; got "
                f"epochs={list(epochs)}, tau={list(tau)}"
            )
        self.stages, self.total_epochs = sorted(zip(epochs, tau, strict=True)), total_epochs

    def perturb(self, attack: Attack, network: Classifier, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Return the images to train on; see `Objective`."""
        if not isinstance(attack, PGD):
            raise TypeError(f"friendly adversarial training needs PGD as method.train_attack, got {attack}")
        tau = [value for start, value in self.stages if epochs_at(progress, self.total_epochs) >= start][-1]
        return replace(attack, tau=tau)(network, x, y)
