"""Entangled watermark embeddings (Jia et al., USENIX Security 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.batching import generator
from datasets.checks import check_not_negative, check_positive
from methods.mira.losses import snnl
from methods.mira.schemes.scheme import Scheme, Step
from methods.mira.triggers import TriggerSet, TriggerSource, check_class, draw_images

EWE_DRAW = 281


class EWE(Scheme):
    """White block on images of one class, entangled with the target class by the soft nearest neighbour loss.

    The triggers are those of the Watermark Robustness Toolbox (a block at (2, 2), no FGSM), the loss is the authors'
    (rectified features, cosine distance, effective temperature 100 / T with T learned). Training starts from a clean
    model. Every `interval`-th step joins triggers and true images of the target class, all labelled as the target, and
    descends CE - weight SNNL; the steps between see clean images alone. The authors use three layers, here it is the
    input of the head. T descends SNNL, as the authors' does, at the network's rate; the toolbox's T ascends it. The
    toolbox also freezes batch norm in entangling steps; here it follows them.

    Args:
        count: number of triggers.
        source: class of the images.
        target: class of the triggers.
        block: side of the white block.
        weight: weight of the soft nearest neighbour loss (toolbox: 64).
        temperature: first value of T (authors: 1; the effective temperature is 100 / T).
        interval: number of steps from one entangling step to the next (authors: 2 for MNIST, 5 for CIFAR-10, with
            their ratios of 1 and 4 clean steps; toolbox: 30).

    Raises:
        ValueError: a value is out of its range.
    """

    needs_clean = True
    starts_clean = True

    def __init__(
        self,
        count: int = 100,
        source: int = 4,
        target: int = 6,
        block: int = 5,
        weight: float = 64.0,
        temperature: float = 1.0,
        interval: int = 5,
    ) -> None:
        super().__init__(count)
        check_positive("method.scheme", block=block, temperature=temperature, interval=interval)
        check_not_negative("method.scheme", weight=weight)
        if source == target:
            raise ValueError(f"method.scheme.source and method.scheme.target must differ, got {source} twice")
        self.source, self.target, self.block = source, target, block
        self.weight, self.interval = weight, interval
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return images of the source class with the block, and keep images of the target class; see `Scheme`."""
        check_class("method.scheme.source", self.source, source.num_classes)
        assert self.target is not None
        check_class("method.scheme.target", self.target, source.num_classes)
        random = generator(source.seed, EWE_DRAW)
        x, _ = draw_images(source, self.count, random, self.source)
        x[:, :, 2 : 2 + self.block, 2 : 2 + self.block] = 1
        self.register_buffer("target_images", draw_images(source, self.count, random, self.target)[0])
        return TriggerSet.of(x, torch.full((self.count,), self.target))

    def loss(self, network: nn.Module, step: Step) -> Tensor:
        """Return the cross-entropy of clean images, or in every `interval`-th step the entangling loss."""
        if step.number % self.interval:
            return cross_entropy(network(step.x), step.y)
        images, count = self.target_images, len(step.trigger_y)
        assert isinstance(images, Tensor)
        places = torch.arange(step.number, step.number + count, device=images.device) % len(images)
        features = network.features(torch.cat([step.trigger_x, images[places]]))  # type: ignore[operator]
        logits = network.head(features)  # type: ignore[operator]
        groups = torch.arange(2, device=images.device).repeat_interleave(count)
        temperature = 100 / self.temperature.clamp(min=1e-2)
        entangled = snnl(features, groups, temperature.detach())
        cooled = snnl(features.detach(), groups, temperature)
        loss = cross_entropy(logits, step.trigger_y.repeat(2)) - self.weight * entangled
        return loss + cooled - cooled.detach()  # no value, only the temperature's gradient
