"""A small classifier whose features and probabilities stand in for those of Inception."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_count, check_positive, check_widths
from methods.epochs import number_of_epochs


class FeatureNet(nn.Module):
    """Convolutions with batch normalisation and pooling, a linear layer to the features, and a linear head.

    Args:
        in_channels: number of image channels C.
        num_classes: number of classes K.
        image_size: side of the image, at least 8.
        mean: unused.
        std: unused.
        widths: output channels of each convolution.
        feature_dim: size D of the features.

    Shapes:
        images (N, C, H, W) in [0, 1] -> logits (N, K).
    """

    tasks = ("image-classification",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        widths: Sequence[int] = (32, 64, 128),
        feature_dim: int = 64,
    ) -> None:
        super().__init__()
        check_count("model", feature_dim=feature_dim)
        check_widths("model", widths=widths)
        side = image_size // 2 ** len(widths)
        if side < 1:
            raise ValueError(f"model.widths={list(widths)} halve images of {image_size} pixels to nothing")
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            in_channels = width
        self.convs = nn.Sequential(*layers)
        self.penultimate = nn.Linear(in_channels * side**2, feature_dim)
        self.head = nn.Linear(feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, D) of images (N, C, H, W) in [0, 1]."""
        return self.penultimate(self.convs(x * 2 - 1).flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.features(x))


class FeatureClassifier(LightningModule):
    """Training of the classifier by Adam on the cross-entropy; the rate falls to zero along a cosine.

    Metrics: `val/acc`, `val/loss`, `test/acc`, `test/loss`, fractions.

    Args:
        network: images (N, C, H, W) in [0, 1] -> logits (N, K).
        lr: learning rate of Adam.
    """

    tasks = ("image-classification",)
    monitor = None

    def __init__(self, network: nn.Module, lr: float = 0.001) -> None:
        super().__init__()
        check_positive("method", lr=lr)
        self.network, self.lr = network, lr

    def configure_optimizers(self) -> Any:
        """Return Adam and a cosine schedule over the epochs."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr)
        epochs = number_of_epochs(self.trainer)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the cross-entropy of the batch."""
        return cross_entropy(self.network(batch.x), batch.y)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log loss and accuracy of the validation images."""
        self._evaluate(self.trainer.datamodule.val_prefix(dataloader_idx), batch)  # type: ignore[attr-defined]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy of the test images."""
        self._evaluate("test/", batch)

    def _evaluate(self, prefix: str, batch: Any) -> None:
        logits = self.network(batch.x)
        values = {
            f"{prefix}loss": cross_entropy(logits, batch.y),
            f"{prefix}acc": (logits.argmax(1) == batch.y).float().mean(),
        }
        self.log_dict(values, batch_size=len(batch.y), sync_dist=True, add_dataloader_idx=False)
