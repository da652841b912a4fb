"""What adversarial training methods minimise: each crafts images for a batch, then gives the loss on them."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, nll_loss, softmax

from methods.attacks import PGD
from methods.f2at.bitplanes import BitPlanes, low_planes, quantise
from methods.f2at.rates import epochs_of

Logs = dict[str, Tensor]


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Mean over the batch of KL(softmax(reference) || softmax(logits)); gradient flows into both. (B, C) each."""
    return kl_div(log_softmax(logits, dim=1), softmax(reference, dim=1), reduction="sum") / len(logits)


class Objective(nn.Module):
    """Cross-entropy on attacked images (Madry et al. 2018), or on the images as they are where there is no attack."""

    planes = BitPlanes()  # the cut that figures show

    def __init__(self, attack: PGD | None = None) -> None:
        super().__init__()
        self.attack = attack

    def begin(self, network: nn.Module, helper: nn.Module | None) -> None:
        """Called once with the network to be trained, and another run's network where the method asks for one."""

    def craft(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Images to train on: x (B, C, H, W) in [0, 1], y (B,) -> as x. progress: share of training that is past."""
        return x if self.attack is None else self.attack(network, x, y)

    def forward(self, network: nn.Module, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        """The loss on images x and what was crafted of them, and what is to be logged."""
        logits = network(adv)
        return cross_entropy(logits, y), {"adv_acc": accuracy(logits, y)}


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == y).float().mean()


class TRADES(Objective):
    """Cross-entropy on clean images plus `beta` times the divergence of attacked ones (Zhang et al. 2019)."""

    def __init__(self, attack: PGD, beta: float = 6.0) -> None:
        super().__init__(attack)
        self.beta = beta

    def forward(self, network: nn.Module, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        clean, attacked = network(x), network(adv)
        loss = cross_entropy(clean, y) + self.beta * divergence(attacked, clean)
        return loss, {"acc": accuracy(clean, y), "adv_acc": accuracy(attacked, y)}


class MART(Objective):
    """Misclassification-aware training (Wang et al. 2020): the divergence counts where clean images are wrong."""

    def __init__(self, attack: PGD, beta: float = 5.0) -> None:
        super().__init__(attack)
        self.beta = beta

    def forward(self, network: nn.Module, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        clean, attacked = network(x), network(adv)
        p, p_adv = softmax(clean, dim=1), softmax(attacked, dim=1)
        runner_up = p_adv.scatter(1, y[:, None], -1.0).argmax(1)
        boosted = cross_entropy(attacked, y) + nll_loss(torch.log(1.0001 - p_adv + 1e-12), runner_up)
        wrongness = 1.0000001 - p.gather(1, y[:, None]).squeeze(1)
        each = kl_div(torch.log(p_adv + 1e-12), p, reduction="none").sum(1)
        loss = boosted + self.beta * (each * wrongness).mean()
        return loss, {"acc": accuracy(clean, y), "adv_acc": accuracy(attacked, y)}


class LBGAT(Objective):
    """Boundary guided training (Cui et al. 2021): attacked logits follow those of a teacher that learns clean images.

    The teacher has the network's architecture (the paper: a ResNet-18) and is trained along. beta 0 leaves out the
    divergence.
    """

    def __init__(self, attack: PGD, beta: float = 6.0) -> None:
        super().__init__(attack)
        self.beta = beta

    def begin(self, network: nn.Module, helper: nn.Module | None) -> None:
        self.teacher = copy.deepcopy(network)
        for module in self.teacher.modules():  # other weights than the network starts from
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def forward(self, network: nn.Module, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        attacked, guide = network(adv), self.teacher(x)
        loss = mse_loss(attacked, guide) + cross_entropy(guide, y)
        logs = {"adv_acc": accuracy(attacked, y), "teacher_acc": accuracy(guide, y)}
        if self.beta:
            clean = network(x)
            loss = loss + self.beta * divergence(attacked, clean)
            logs["acc"] = accuracy(clean, y)
        return loss, logs


class FriendlyTraining(Objective):
    """Friendly adversarial training (Zhang et al. 2020): attacks stop soon after an image is misclassified.

    at, patience: from each of these epochs, of `of`, on an image is attacked for so many steps more.
    """

    def __init__(
        self,
        attack: PGD,
        at: tuple[int, ...] = (0, 50, 90),
        patience: tuple[int, ...] = (0, 1, 2),
        of: int = 120,
    ) -> None:
        super().__init__(attack)
        self.stages, self.of = sorted(zip(at, patience, strict=True)), of

    def craft(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        patience = [p for start, p in self.stages if epochs_of(progress, self.of) >= start][-1]
        return replace(self.attack, patience=patience)(network, x, y)


class HAT(Objective):
    """Helper-based training (Rade & Moosavi-Dezfooli 2022): TRADES, and images further out, labelled naturally.

    A helper image lies `reach` times as far from x as the attacked one, and has the label that the naturally trained
    helper network gives the attacked one.
    """

    def __init__(self, attack: PGD, beta: float = 2.5, gamma: float = 0.5, reach: float = 3.5) -> None:
        super().__init__(attack)
        self.beta, self.gamma, self.reach = beta, gamma, reach

    def begin(self, network: nn.Module, helper: nn.Module | None) -> None:
        if helper is None:
            raise ValueError(
                "HAT needs a naturally trained network: a run under `needs`, as in conf/method/f2at/hat.yaml"
            )
        self.helper = helper.requires_grad_(False)

    def forward(self, network: nn.Module, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            label = self.helper.eval()(adv).argmax(1)
        clean, attacked = network(x), network(adv)
        outside = network(x + self.reach * (adv - x))
        loss = cross_entropy(clean, y) + self.beta * divergence(attacked, clean)
        loss = loss + self.gamma * cross_entropy(outside, label)
        return loss, {"acc": accuracy(clean, y), "adv_acc": accuracy(attacked, y)}


class BPFC(Objective):
    """Bit plane feature consistency (Addepalli et al., CVPR 2020): logits agree with those of coarser images.

    Args:
        attack: none, by its nature. planes: low bit-planes that are coarsened.
        weight: of the squared distance of logits; from each epoch of `at`, of `of`, on it is multiplied by `growth`.
    """

    def __init__(
        self,
        attack: None = None,
        planes: int = 5,
        weight: float = 1.0,
        growth: float = 9.0,
        at: tuple[int, ...] = (26, 51, 76),
        of: int = 100,
    ) -> None:
        super().__init__(attack)
        if not 2 <= planes <= 7:
            raise ValueError(f"method.objective.planes must lie in 2..7, got {planes}")
        self.planes, self.weight, self.growth, self.at, self.of = BitPlanes(planes), weight, growth, tuple(at), of

    @torch.no_grad()
    def craft(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        noise = 2.0 ** min(self.planes.k - 2, 3)
        q = quantise(x) + noise * (2 * torch.rand_like(x) - 1)
        return (q - low_planes(q, self.planes.k) + 2 ** (self.planes.k - 1)).clamp(0, 255) / 255

    def forward(self, network: nn.Module, x: Tensor, adv: Tensor, y: Tensor, progress: float) -> tuple[Tensor, Logs]:
        clean, coarse = network(x), network(adv)
        weight = self.weight * self.growth ** sum(epochs_of(progress, self.of) >= start for start in self.at)
        distance = (clean - coarse).square().sum(1).mean()
        return cross_entropy(clean, y) + weight * distance, {"acc": accuracy(clean, y), "distance": distance.detach()}
