"""Laundering (Aiken et al., arXiv 2004.11368): reverse-engineered triggers show which units to reset."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from datasets.batching import generator
from datasets.checks import check_not_negative
from datasets.progress import track
from methods.mira.attack_data import AttackData
from methods.mira.attacks.attack import RemovalAttack, prunable_layers
from methods.mira.attacks.neural_cleanse import ReverseEngineering
from methods.mira.fine_tuning_loop import SGD, Observer, batch_cross_entropy, fine_tune

LAUNDER = 141


@torch.no_grad()
def layer_means(network: nn.Module, layers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """Return the mean output of each layer over the images, without the first axis.

    Args:
        network: network, in eval mode.
        layers: layers to observe.
        x: images (N, C, H, W).
    """
    sums: dict[int, Tensor] = {}

    def observer(number: int) -> object:
        def observe(_: nn.Module, __: object, output: Tensor) -> None:
            sums[number] = sums.get(number, torch.zeros_like(output[0])) + output.sum(0)

        return observe

    handles = [layer.register_forward_hook(observer(i)) for i, layer in enumerate(layers)]  # type: ignore[arg-type]
    try:
        for part in x.split(250):
            network(part)
    finally:
        for handle in handles:
            handle.remove()
    return [sums[number] / len(x) for number in range(len(layers))]


@torch.no_grad()
def reset_units(layer: nn.Conv2d | nn.Linear, difference: Tensor, dense: float, conv: float) -> int:
    """Set the input weights of units that a trigger excites to zero, and return their number.

    Args:
        layer: layer of the units.
        difference: mean output with the trigger minus the one without it, (D,) or (C, H, W).
        dense: threshold of a linear layer's units.
        conv: threshold of a channel's largest difference.
    """
    is_conv = isinstance(layer, nn.Conv2d)
    excited = difference.flatten(1).amax(1) > conv if is_conv else difference > dense
    layer.weight[excited] = 0
    return int(excited.sum())


class Laundering(RemovalAttack):
    """Reset of the units that a reverse-engineered trigger excites, and retraining on clean and triggered images.

    Units of the second half of the network, without the head, whose mean output rises by more than a threshold lose
    their input weights. Triggered images keep their true label. (The toolbox also gives other classes' triggered images
    the least infected label.)

    Args:
        sgd: settings of retraining (toolbox: 5 epochs).
        search: search for triggers.
        dense_threshold: threshold of linear units (toolbox: 0.2 or 0.3).
        conv_threshold: threshold of channels (toolbox: 0.5 or 1.0).

    Raises:
        ValueError: a threshold is negative.
    """

    def __init__(
        self,
        sgd: SGD | None = None,
        search: ReverseEngineering | None = None,
        dense_threshold: float = 0.2,
        conv_threshold: float = 0.5,
    ) -> None:
        super().__init__()
        check_not_negative("method.attack", dense_threshold=dense_threshold, conv_threshold=conv_threshold)
        self.sgd, self.search = sgd or SGD(epochs=5), search or ReverseEngineering()
        self.dense_threshold, self.conv_threshold = dense_threshold, conv_threshold

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the model after reset and retraining; see `RemovalAttack`."""
        classes = track(range(data.num_classes), "reverse-engineered triggers")
        triggers = [self.search(network, data, label) for label in classes]
        norms = torch.stack([trigger.mask.sum() for trigger in triggers])
        trigger = triggers[int(norms.argmin())]
        layers = [layer for layer in prunable_layers(network) if layer is not network.head]
        layers = layers[len(layers) // 2 :]
        network.eval()
        clean = layer_means(network, list(layers), data.images)
        triggered = layer_means(network, list(layers), trigger.apply(data.images))
        resets = [
            reset_units(layer, with_trigger - without, self.dense_threshold, self.conv_threshold)
            for layer, without, with_trigger in zip(layers, clean, triggered, strict=True)
        ]
        self.metrics |= {"nc_class": float(norms.argmin()), "reset_units": float(sum(resets))}

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            random = generator(data.seed, LAUNDER, epoch)
            for x, y in data.batches(self.sgd.batch_size, epoch):
                half = (torch.rand(len(y), generator=random) < 0.5).to(x.device)
                yield torch.where(half.view(-1, 1, 1, 1), trigger.apply(x), x), y

        return fine_tune(network, self.sgd, batches, batch_cross_entropy, observe)
