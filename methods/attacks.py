"""White-box attacks on image classifiers: projected gradient ascent within a ball, in its published forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, interpolate, kl_div, log_softmax, pad, softmax

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def ce_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each example: (B, C), (B,) -> (B,)."""
    return cross_entropy(logits, y, reduction="none")


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the right one (Carlini & Wagner 2017, f6 without its bound): (B, C), (B,) -> (B,)."""
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return wrong - right


def kl_loss(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(clean || softmax of logits) of each example (TRADES): (B, C) logits, (B, C) probabilities -> (B,)."""
    return kl_div(log_softmax(logits, dim=1), clean, reduction="none").sum(1)


LOSSES: dict[str, Loss] = {"ce": ce_loss, "margin": margin_loss, "kl": kl_loss}


def plain(x: Tensor) -> Tensor:
    """Without a past, and free to be part of a graph where it was made under inference mode."""
    return x.clone() if x.is_inference() else x.detach()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers follow the seed meanwhile, then go on as if nothing had been."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def mode_of(network: nn.Module, training: bool) -> Iterator[None]:
    """The network in train or eval mode meanwhile, then as it was."""
    before = network.training
    network.train(training)
    try:
        yield
    finally:
        network.train(before)


@dataclass(frozen=True)
class PGD:
    """Ascends a loss by projected steps, staying within a ball around x and within [0, 1] (Madry et al. 2018).

    One step of `eps` without a random start is FGSM; `loss: margin` is what tables of adversarial training call C&W;
    `momentum: 1` is MIM (Dong et al. 2018), with `diversity` DIM (Xie et al. 2019) and `smoothing` TIM (Dong et al.
    2019).

    Args:
        eps: radius, of images in [0, 1]. step: of each ascent. steps: their number.
        norm: `linf` or `l2`.
        start: `uniform` in the ball, `gaussian` (0.001 of standard deviation, as TRADES and MART) or `none`.
        loss: `ce`, `margin`, or `kl` against the clean prediction.
        restarts: the attack is repeated, and the start with the highest loss taken for each image.
        momentum: of the gradient, each divided by its mean magnitude.
        diversity: share of steps that look at a shrunk image, padded at random.
        smoothing: width of a Gaussian kernel over the gradient; 0: none.
        training: the network's mode meanwhile; in train mode batch norm uses, and updates, the batch's statistics.
        patience: an image stays where it is so many steps after it was first misclassified (friendly training).
    """

    eps: float
    step: float
    steps: int
    norm: Literal["linf", "l2"] = "linf"
    start: Literal["uniform", "gaussian", "none"] = "uniform"
    loss: Literal["ce", "margin", "kl"] = "ce"
    restarts: int = 1
    momentum: float = 0.0
    diversity: float = 0.0
    smoothing: int = 0
    training: bool = False
    patience: int | None = None

    def __post_init__(self) -> None:
        largest = 1.0 if self.norm == "linf" else float("inf")
        if not 0 <= self.eps <= largest:
            raise ValueError(f"an attack's eps is in units of images in [0, 1], got {self.eps}; 8/255 is {8 / 255:.4f}")
        if self.step < 0 or self.steps < 1 or self.restarts < 1:
            raise ValueError("an attack needs step >= 0, steps >= 1 and restarts >= 1")
        for name, value, known in (
            ("norm", self.norm, ("linf", "l2")),
            ("start", self.start, ("uniform", "gaussian", "none")),
            ("loss", self.loss, tuple(LOSSES)),
        ):
            if value not in known:
                raise ValueError(f"an attack's {name} must be one of {', '.join(known)}, got {value}")
        if self.smoothing and self.smoothing % 2 == 0:
            raise ValueError(f"an attack's smoothing must be odd, got {self.smoothing}")

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> as x, detached. Leaves no gradient in the network's weights."""
        with mode_of(network, self.training), torch.inference_mode(False), torch.enable_grad():
            x, y = plain(x), plain(y)
            target = softmax(network(x).detach(), dim=1) if self.loss == "kl" else y
            best = self.ascend(network, x, y, target)
            if self.restarts == 1:
                return best
            highest = self.value(network, best, target)
            for _ in range(self.restarts - 1):
                found = self.ascend(network, x, y, target)
                value = self.value(network, found, target)
                better = value > highest
                best = torch.where(better[:, None, None, None], found, best)
                highest = torch.where(better, value, highest)
            return best

    @torch.no_grad()
    def value(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.loss](network(x), target)

    def ascend(self, network: nn.Module, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """One run of the attack from one start."""
        loss, found = LOSSES[self.loss], self.begin(x)
        velocity = torch.zeros_like(x) if self.momentum else None
        left = None if self.patience is None else torch.full_like(y, self.patience)
        for _ in range(self.steps):
            found.requires_grad_(True)
            logits = network(shrink(found, self.diversity) if self.diversity else found)
            (gradient,) = torch.autograd.grad(loss(logits, target).sum(), found)
            with torch.no_grad():
                if self.smoothing:
                    gradient = smooth(gradient, self.smoothing)
                if velocity is not None:
                    size = gradient.abs().mean((1, 2, 3), keepdim=True)
                    gradient = velocity = self.momentum * velocity + gradient / size.clamp_min(1e-12)
                moved = project(found + self.step * direction(gradient, self.norm), x, self.eps, self.norm)
                if left is not None:
                    wrong = logits.argmax(1) != y
                    moved = torch.where((wrong & (left <= 0))[:, None, None, None], found, moved)
                    left = left - wrong.long()
            found = moved.detach()
        return found

    def begin(self, x: Tensor) -> Tensor:
        if self.start == "none":
            return x.clone()
        if self.start == "gaussian":
            return project(x + 0.001 * torch.randn_like(x), x, self.eps, self.norm)
        if self.norm == "linf":
            return project(x + self.eps * (2 * torch.rand_like(x) - 1), x, self.eps, self.norm)
        inside = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) ** (1 / x[0].numel())
        return project(x + self.eps * inside * direction(torch.randn_like(x), "l2"), x, self.eps, self.norm)


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The step of unit length that ascends most steeply."""
    if norm == "linf":
        return gradient.sign()
    return gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


def project(moved: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point in the ball around x, then in [0, 1] (which brings it nearer to x, if anything)."""
    if norm == "linf":
        return torch.clamp(moved, (x - eps).clamp_min(0), (x + eps).clamp_max(1))
    difference = moved - x
    length = difference.flatten(1).norm(dim=1)[:, None, None, None]
    return (x + difference * (eps / length.clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)


def shrink(x: Tensor, probability: float, smallest: float = 0.9) -> Tensor:
    """With the given probability the images, shrunk to a random size and padded at random to the old one."""
    if torch.rand(()) >= probability:
        return x
    size = x.shape[-1]
    small = int(torch.randint(int(smallest * size), size + 1, ()))
    top, left = (int(torch.randint(0, size - small + 1, ())) for _ in range(2))
    shrunk = interpolate(x, small, mode="bilinear", align_corners=False)
    return pad(shrunk, (left, size - small - left, top, size - small - top))


def smooth(gradient: Tensor, width: int) -> Tensor:
    """Each channel convolved with a Gaussian that spans three standard deviations."""
    at = torch.linspace(-3, 3, width, dtype=gradient.dtype, device=gradient.device)
    line = torch.exp(-(at**2) / 2)
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum()).expand(gradient.shape[1], 1, width, width)
    return conv2d(gradient, kernel, padding=width // 2, groups=gradient.shape[1])


def FGSM(eps: float, norm: Literal["linf", "l2"] = "linf") -> PGD:
    """One step of full length, no random start (Goodfellow et al. 2015)."""
    return PGD(eps, step=eps, steps=1, norm=norm, start="none")
