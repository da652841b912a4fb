"""Data that an attacker has: a share of the training data, images of another data set, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from datasets.batching import generator
from datasets.checks import check_choice, check_positive
from datasets.images.augment import Augment
from methods.mira.verification import predict

SETTINGS = ("in_distribution", "transfer", "data_free")
DRAW, ORDER = 103, 104


@dataclass(frozen=True)
class AttackData:
    """Images, labels and recovered samples that an attack may use. Attacks see neither triggers nor test images.

    Args:
        num_classes: number of classes.
        seed: seed of all draws.
        x: images (M, C, H, W) in [0, 1]; None in the data-free setting.
        y: labels (M,): the true ones, or in the transfer setting the marked model's.
        augment: augmentation of training batches, or None.
        recovered: recovered samples (K, n, C, H, W) in [0, 1], or None.
        root: data folder, for attacks that read another data set.
    """

    num_classes: int
    seed: int
    x: Tensor | None = None
    y: Tensor | None = None
    augment: Augment | None = None
    recovered: Tensor | None = None
    root: Path = Path("data")

    @property
    def images(self) -> Tensor:
        """Images. Raises ValueError in the data-free setting."""
        if self.x is None:
            raise ValueError("this attack needs images: method.setting=in_distribution or transfer")
        return self.x

    @property
    def labels(self) -> Tensor:
        """Labels. Raises ValueError in the data-free setting."""
        if self.y is None:
            raise ValueError("this attack needs images: method.setting=in_distribution or transfer")
        return self.y

    def to(self, device: torch.device) -> AttackData:
        """Return the data on a device."""
        moved: dict[str, Any] = {
            name: None if tensor is None else tensor.to(device)
            for name, tensor in {"x": self.x, "y": self.y, "recovered": self.recovered}.items()
        }
        return replace(self, **moved)

    def labelled_by(self, network: nn.Module) -> AttackData:
        """Return the data with the labels that a network predicts for the images without augmentation."""
        return replace(self, y=predict(network, self.images))

    def batches(self, batch_size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield shuffled, augmented batches of one epoch.

        Args:
            batch_size: images in a batch; the last one may have fewer.
            epoch: number of the epoch.
        """
        yield from shuffled_batches(self.images, self.labels, batch_size, (self.seed, epoch), self.augment)


def shuffled_batches(
    x: Tensor, y: Tensor, batch_size: int, key: tuple[int, ...], augment: Augment | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, which depend on the key alone.

    A last batch of one image is left out (batch norm), unless all batches have one.

    Args:
        x: images (N, C, H, W).
        y: labels (N,).
        batch_size: images in a batch.
        key: whole numbers, such as seed and epoch.
        augment: augmentation, or None.
    """
    random = generator(ORDER, *key)
    for index in torch.randperm(len(y), generator=random).split(batch_size):
        if len(index) == 1 and len(y) > 1 and batch_size > 1:
            continue
        batch = x[index.to(x.device)]
        yield (batch if augment is None else augment(batch, random)), y[index.to(y.device)]


def endless_batches(x: Tensor, y: Tensor, batch_size: int, key: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches without an end; each turn through the images is shuffled anew."""
    turn = 0
    while True:
        yield from shuffled_batches(x, y, batch_size, (*key, turn))
        turn += 1


def draw_attack_data(data: Any, setting: str, images: int, seed: int, transfer: Any = None) -> AttackData:
    """Draw the attacker's images.

    The published code draws anew from the whole training set, so the marked model has seen most of them; here they come
    from its training part.

    Args:
        data: DataModule of the marked model, set up.
        setting: one of `SETTINGS`.
        images: number of images.
        seed: seed of the draw.
        transfer: builds the DataModule of the transfer setting from `root`, `seed` and `workers`.

    Returns:
        The data. In the transfer setting its labels are those of the other data set, to be replaced by predictions.

    Raises:
        ValueError: the setting is unknown, needs a data set that is not named, or has fewer images.
    """
    check_choice("method.setting", setting, SETTINGS)
    check_positive("method", images=images)
    empty = AttackData(len(data.classes), seed, root=data.root)
    if setting == "data_free":
        return empty
    if setting == "transfer":
        source, name = _transfer_images(data, transfer, seed), "the transfer data set"
    else:
        source, name = data.parts["train"], "the training part"
    if images > len(source.labels):
        raise ValueError(f"method.images={images} are more than {name} has ({len(source.labels)})")
    chosen = torch.randperm(len(source.labels), generator=generator(seed, DRAW))[:images]
    x = fit_images(source.images[chosen], data.train_images.shape[1:])
    return replace(empty, x=x, y=source.labels[chosen], augment=data.augment)


def _transfer_images(data: Any, transfer: Any, seed: int) -> Any:
    if transfer is None:
        raise ValueError(
            "method.setting=transfer needs another data set: "
            "+dataset@method.transfer=<name> +method.transfer._partial_=true"
        )
    other = transfer(root=data.root, seed=seed, workers=0)
    other.prepare_data()
    other.setup()
    return other.parts["train"]


def fit_images(images: Tensor, shape: torch.Size | tuple[int, int, int]) -> Tensor:
    """Bring images to another size and number of channels.

    Args:
        images: (N, C, H, W) uint8.
        shape: channels (1 or 3), height and width.

    Returns:
        (N, *shape) float32 in [0, 1], resized bilinearly; grey is repeated, RGB becomes luma (ITU-R 601).
    """
    x = images.float() / 255
    if x.shape[1] == 3 and shape[0] == 1:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    x = x.expand(-1, shape[0], -1, -1)
    if x.shape[2:] != torch.Size(shape[1:]):
        x = interpolate(x, size=tuple(shape[1:]), mode="bilinear", antialias=True, align_corners=False)
    return x.clamp(0, 1)
