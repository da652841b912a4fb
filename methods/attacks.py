"""White-box attacks on image classifiers by projected gradient ascent: FGSM, PGD, C&W margin, MIM, DIM, TIM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, interpolate, kl_div, log_softmax, pad, softmax

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
AttackLoss = Callable[[Tensor, Tensor], Tensor]


def ce_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each example.

    Shapes: logits (B, C), y (B,) -> (B,).
    """
    return cross_entropy(logits, y, reduction="none")


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the best wrong logit minus the right one (Carlini & Wagner 2017, f6 without its bound).

    Shapes: logits (B, C), y (B,) -> (B,).
    """
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return wrong - right


def kl_loss(logits: Tensor, clean: Tensor) -> Tensor:
    """Return KL(clean || softmax(logits)) of each example (TRADES).

    Shapes: logits (B, C), probabilities clean (B, C) -> (B,).
    """
    return kl_div(log_softmax(logits, dim=1), clean, reduction="none").sum(1)


LOSSES: dict[str, AttackLoss] = {"ce": ce_loss, "margin": margin_loss, "kl": kl_loss}


def detached(x: Tensor) -> Tensor:
    """Return a detached tensor that autograd can use even if x was created in inference mode."""
    return x.clone() if x.is_inference() else x.detach()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers inside the context and restore their state after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def mode_of(network: nn.Module, training: bool) -> Iterator[None]:
    """Put the network in train or eval mode inside the context and restore its mode after it."""
    before = network.training
    network.train(training)
    try:
        yield
    finally:
        network.train(before)


class NoAttack:
    """Leave images as they are.

    It accepts and ignores the arguments of `PGD`, so that an experiment can set them for all of its methods.
    """

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return x itself."""
        return x


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent of a loss within a ball around x and within [0, 1] (Madry et al. 2018).

    One step of length `eps` without a random start is FGSM. `loss: margin` is the attack that tables of adversarial
    training call C&W. `momentum: 1` is MIM (Dong et al. 2018), with `diversity` DIM (Xie et al. 2019), with
    `kernel_size` TIM (Dong et al. 2019). `tau` is the early-stopped PGD of friendly adversarial training (Zhang et al.
    2020, algorithm 1).

    Two memory layouts of the network, contiguous and channels_last, round differently. Where a gradient is almost zero
    its sign may then differ, and such a value moves by a whole step the other way: on ResNet-18 with random weights 5
    steps of 2/255 differed in up to 1.5 % of the values, by up to 8/255. Losses and accuracies under attack agree.

    Args:
        eps: radius of the ball, for images in [0, 1].
        step_size: length of a step.
        steps: number of steps.
        norm: norm of the ball and of the steps.
        start: first point. `uniform`: drawn uniformly from the ball. `gaussian`: x plus noise of standard deviation
            0.001, not clipped before the first step, as in the published code of TRADES, MART, HAT and LBGAT.
            `none`: x.
        loss: loss to ascend: cross-entropy, margin, or the divergence from the clean prediction.
        restarts: number of runs; for each image the one with the highest loss is kept.
        momentum: momentum of the gradient, which is divided by its mean magnitude at each step.
        diversity: share of the steps that see the images shrunk to a random size and padded at random.
        kernel_size: width of the Gaussian kernel that smooths the gradient; 0 disables it.
        train_mode: put the network in train mode, where batch norm uses, and updates, the batch's statistics.
        tau: number of steps that an image still makes after it is misclassified; None never stops early.
        step_noise: standard deviation of the Gaussian noise that is added to each step (omega of the published code of
            friendly adversarial training).

    Raises:
        ValueError: if an argument is out of its range.
    """

    eps: float
    step_size: float
    steps: int
    norm: Literal["linf", "l2"] = "linf"
    start: Literal["uniform", "gaussian", "none"] = "uniform"
    loss: Literal["ce", "margin", "kl"] = "ce"
    restarts: int = 1
    momentum: float = 0.0
    diversity: float = 0.0
    kernel_size: int = 0
    train_mode: bool = False
    tau: int | None = None
    step_noise: float = 0.0

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm)
        if self.step_size < 0 or self.steps < 1 or self.restarts < 1 or self.step_noise < 0:
            raise ValueError("an attack needs step_size >= 0, steps >= 1, restarts >= 1 and step_noise >= 0")
        if self.momentum < 0 or not 0 <= self.diversity <= 1 or (self.tau or 0) < 0:
            raise ValueError("an attack needs momentum >= 0, diversity in [0, 1] and tau >= 0 or null")
        for name, value, choices in (
            ("norm", self.norm, ("linf", "l2")),
            ("start", self.start, ("uniform", "gaussian", "none")),
            ("loss", self.loss, tuple(LOSSES)),
        ):
            if value not in choices:
                raise ValueError(f"an attack's {name} must be one of {', '.join(choices)}, got {value}")
        if self.kernel_size < 0 or (self.kernel_size and self.kernel_size % 2 == 0):
            raise ValueError(f"an attack's kernel_size must be odd, or 0 for none, got {self.kernel_size}")

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked images, detached. The network's weights get no gradient.

        Shapes: x (B, C, H, W) in [0, 1], y (B,) -> (B, C, H, W).
        """
        with mode_of(network, self.train_mode), torch.inference_mode(False), torch.enable_grad():
            x, y = detached(x), detached(y)
            target = softmax(network(x).detach(), dim=1) if self.loss == "kl" else y
            best = self._ascend(network, x, y, target)
            if self.restarts == 1:
                return best
            highest = self._values(network, best, target)
            for _ in range(self.restarts - 1):
                other = self._ascend(network, x, y, target)
                value = self._values(network, other, target)
                better = value > highest
                best = torch.where(better[:, None, None, None], other, best)
                highest = torch.where(better, value, highest)
            return best

    @torch.no_grad()
    def _values(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.loss](network(x), target)

    def _ascend(self, network: nn.Module, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Run the attack once from one start."""
        loss, adv = LOSSES[self.loss], self._first_point(x)
        velocity = torch.zeros_like(x) if self.momentum else None
        remaining = None if self.tau is None else torch.full_like(y, self.tau)
        for _ in range(self.steps):
            adv.requires_grad_(True)
            logits = network(resize_and_pad(adv, self.diversity) if self.diversity else adv)
            (gradient,) = torch.autograd.grad(loss(logits, target).sum(), adv)
            with torch.no_grad():
                if self.kernel_size:
                    gradient = smooth(gradient, self.kernel_size)
                if velocity is not None:
                    size = gradient.abs().mean((1, 2, 3), keepdim=True)
                    gradient = velocity = self.momentum * velocity + gradient / size.clamp_min(1e-12)
                moved = self._step(adv, gradient, x)
                if remaining is not None:
                    wrong = logits.argmax(1) != y
                    moved = torch.where((wrong & (remaining <= 0))[:, None, None, None], adv, moved)
                    remaining = remaining - wrong.long()
            adv = moved.detach()
        return adv

    def _step(self, adv: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        moved = adv + self.step_size * steepest_ascent(gradient, self.norm)
        if self.step_noise:
            moved = moved + self.step_noise * torch.randn_like(moved)
        return project(moved, x, self.eps, self.norm)

    def _first_point(self, x: Tensor) -> Tensor:
        if self.start == "none":
            return x.clone()
        if self.start == "gaussian":
            start = x + 0.001 * torch.randn_like(x)
            # An image that early stopping never moves would otherwise stay outside of [0, 1].
            return start if self.tau is None else project(start, x, self.eps, self.norm)
        if self.norm == "linf":
            return project(x + self.eps * (2 * torch.rand_like(x) - 1), x, self.eps, self.norm)
        radius = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) ** (1 / x[0].numel())
        return project(x + self.eps * radius * steepest_ascent(torch.randn_like(x), "l2"), x, self.eps, self.norm)


def FGSM(eps: float, norm: Literal["linf", "l2"] = "linf") -> PGD:
    """Return the fast gradient sign method: one step of full length, no random start (Goodfellow et al. 2015).

    Args:
        eps: radius of the ball, for images in [0, 1].
        norm: norm of the ball.
    """
    return PGD(eps, step_size=eps, steps=1, norm=norm, start="none")


def check_eps(eps: float, norm: str) -> None:
    """Raise ValueError if eps is negative, or over 1 in the l-infinity norm."""
    if not 0 <= eps <= (1.0 if norm == "linf" else float("inf")):
        raise ValueError(f"an attack's eps is in units of images in [0, 1], got {eps}; 8/255 is {8 / 255:.4f}")


def steepest_ascent(gradient: Tensor, norm: str) -> Tensor:
    """Return the step of unit length along which the loss rises most steeply.

    Args:
        gradient: gradient of the loss.
        norm: norm of the step, `linf` or `l2`.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """
    if norm == "linf":
        return gradient.sign()
    return gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


def project(moved: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """Return the nearest point in the ball around x, then in [0, 1], which brings it nearer to x if anything.

    Args:
        moved: points to project.
        x: centres of the balls, in [0, 1].
        eps: radius of the balls.
        norm: norm of the balls, `linf` or `l2`.

    Shapes: (B, C, H, W), (B, C, H, W) -> (B, C, H, W).
    """
    if norm == "linf":
        return torch.clamp(moved, (x - eps).clamp_min(0), (x + eps).clamp_max(1))
    difference = moved - x
    length = difference.flatten(1).norm(dim=1)[:, None, None, None]
    return (x + difference * (eps / length.clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)


def resize_and_pad(x: Tensor, probability: float, smallest: float = 0.9) -> Tensor:
    """Shrink the images to a random size and pad them at random to the old one (input diversity of DIM).

    Args:
        x: square images.
        probability: probability that the images are changed at all.
        smallest: smallest size, as a share of the old one.

    Shapes: (B, C, S, S) -> (B, C, S, S).
    """
    if torch.rand(()) >= probability:
        return x
    size = x.shape[-1]
    small = int(torch.randint(int(smallest * size), size + 1, ()))
    top, left = (int(torch.randint(0, size - small + 1, ())) for _ in range(2))
    shrunk = interpolate(x, small, mode="bilinear", align_corners=False)
    return pad(shrunk, (left, size - small - left, top, size - small - top))


def smooth(gradient: Tensor, kernel_size: int) -> Tensor:
    """Convolve each channel with a Gaussian whose kernel spans three standard deviations on each side (TIM).

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """
    at = torch.linspace(-3, 3, kernel_size, dtype=gradient.dtype, device=gradient.device)
    line = torch.exp(-(at**2) / 2)
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum()).expand(gradient.shape[1], 1, kernel_size, kernel_size)
    return conv2d(gradient, kernel, padding=kernel_size // 2, groups=gradient.shape[1])
