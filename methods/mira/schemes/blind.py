"""Blind watermark (Li, Hu, Zhang & Guo, ACSAC 2019): an encoder hides a logo in images, against a discriminator."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, cross_entropy, mse_loss

from datasets.batching import generator
from datasets.checks import check_positive
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource, draw_images

BLIND = 291


def ssim(a: Tensor, b: Tensor, window: int = 11) -> Tensor:
    """Return the mean structural similarity of images in [0, 1], with a uniform window.

    Args:
        a: images (N, C, H, W).
        b: images (N, C, H, W).
        window: side of the window, cut to the images' side.
    """
    side = min(window, a.shape[-1])

    def mean(x: Tensor) -> Tensor:
        return avg_pool2d(x, side, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a.square(), mean(b * b) - mean_b.square()
    cov = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (numerator / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))).mean()


def conv_stack(widths: list[int]) -> list[nn.Module]:
    """Return 3x3 convolutions, each but the last followed by batch norm and LeakyReLU."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(widths)):
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        if place < len(widths) - 2:
            layers += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return layers


class Encoder(nn.Module):
    """Encoder from covers and a logo to triggers: two stems, then 3x3 convolutions of 64 channels.

    This is the authors' network for MNIST with a sigmoid in place of the tanh, since images here are in [0, 1]. Their
    network for CIFAR is a U-Net.

    Args:
        channels: channels of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cover_stem = nn.Sequential(*conv_stack([channels, 3, 3]))
        self.logo_stem = nn.Sequential(*conv_stack([channels, 3, 3]))
        self.body = nn.Sequential(*conv_stack([6, 64, 64, 64, channels]), nn.Sigmoid())

    def forward(self, cover: Tensor, logo: Tensor) -> Tensor:
        """Return triggers.

        Shapes: cover (N, C, H, W), logo (C, H, W) -> (N, C, H, W) in [0, 1].
        """
        logos = logo.expand(len(cover), -1, -1, -1)
        return self.body(torch.cat([self.cover_stem(cover), self.logo_stem(logos)], dim=1))


def make_discriminator(channels: int, height: int, width: int) -> nn.Module:
    """Return the network that tells covers from triggers: 64 and 32 hidden units, one logit."""
    sizes = [channels * height * width, 64, 32]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


class Blind(Scheme):
    """Training images in which an encoder hides a logo; each has a random class as label.

    Here encoder and discriminator are trained when the triggers are made, with the clean model in the place of the
    marked one; then the marked model learns fixed triggers like those of any other scheme. The authors train all three
    together. The encoder minimises 3 MSE + 5 (1 - SSIM) + BCE against the discriminator + 0.1 CE of the model.

    Args:
        count: number of triggers.
        steps: number of steps of the encoder.
        batch_size: covers in a step.
        lr: learning rate of Adam of encoder and discriminator.
        weights: weights of MSE, SSIM, discriminator and classifier.

    Raises:
        ValueError: a weight is negative.
    """

    needs_clean = True

    def __init__(
        self,
        count: int = 100,
        steps: int = 300,
        batch_size: int = 20,
        lr: float = 1e-3,
        weights: tuple[float, float, float, float] = (3.0, 5.0, 1.0, 0.1),
    ) -> None:
        super().__init__(count)
        check_positive("method.scheme", steps=steps, batch_size=batch_size, lr=lr)
        if len(weights) != 4 or min(weights) < 0:
            raise ValueError(f"method.scheme.weights must be four numbers from 0 on, got {list(weights)}")
        self.steps, self.batch_size, self.lr, self.weights = steps, batch_size, lr, weights

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Train the encoder and return its images of the covers; see `Scheme`."""
        assert source.clean is not None
        random = generator(source.seed, BLIND)
        covers, _ = draw_images(source, self.count, random)
        y = torch.randint(source.num_classes, (self.count,), generator=random)
        logo = draw_images(source, 1, random, label=1)[0][0]  # the authors take a test image of class 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.seed + BLIND)
            encoder, discriminator = Encoder(source.shape[0]), make_discriminator(*source.shape)
        self._train(encoder, discriminator, source.clean, covers, y, logo, random)
        with torch.no_grad():
            return TriggerSet.of(encoder.eval()(covers, logo), y)

    def _train(
        self,
        encoder: Encoder,
        discriminator: nn.Module,
        clean: nn.Module,
        covers: Tensor,
        y: Tensor,
        logo: Tensor,
        random: torch.Generator,
    ) -> None:
        own = torch.optim.Adam(encoder.parameters(), lr=self.lr, betas=(0.5, 0.999))
        other = torch.optim.Adam(discriminator.parameters(), lr=self.lr, betas=(0.5, 0.999))
        for _ in range(self.steps):
            places = torch.randperm(len(covers), generator=random)[: self.batch_size]
            x, hidden = covers[places], encoder(covers[places], logo)
            other.zero_grad()
            discrimination_loss(discriminator, x, hidden.detach()).backward()
            other.step()
            own.zero_grad()
            loss = self.encoder_loss(discriminator, clean, x, hidden, y[places])
            loss.backward(inputs=list(encoder.parameters()))
            own.step()

    def encoder_loss(self, discriminator: nn.Module, clean: nn.Module, x: Tensor, hidden: Tensor, y: Tensor) -> Tensor:
        """Return the encoder's loss on covers x and triggers `hidden` with labels y."""
        mse, similarity, real, label = self.weights
        logits = discriminator(hidden)
        return (
            mse * mse_loss(hidden, x)
            + similarity * (1 - ssim(hidden, x))
            + real * binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
            + label * cross_entropy(clean(hidden), y)
        )


def discrimination_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return the binary cross-entropy of telling covers (1) from triggers (0)."""
    on_real, on_fake = discriminator(real), discriminator(fake)
    return binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real)) + binary_cross_entropy_with_logits(
        on_fake, torch.zeros_like(on_fake)
    )
