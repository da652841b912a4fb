"""3D-R2N2 (Choy et al., ECCV 2016) without recurrence, as the paper compares with it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from datasets.checks import check_widths
from methods.occnet.base import TrainedReconstruction
from methods.occnet.conditioned import ConditionedNetwork, EncoderFactory, check_network
from methods.occnet.evaluation import Reconstruction
from methods.occnet.mesh import voxel_mesh
from methods.occnet.metrics import iou
from methods.occnet.occupancy import lookup_voxels


class VoxelNetwork(ConditionedNetwork):
    """Encoder for the kind of input, and a decoder to 32^3 voxels by transposed convolutions.

    Args:
        inputs: kind of input, from the data set.
        num_shapes: number of training shapes, from the data set.
        encoders: factory of the encoder for each kind of input.
        channels: channels of the four volumes of 4, 8, 16 and 32 voxels per axis.

    Shapes:
        x -> logits (B, 32, 32, 32)
    """

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, EncoderFactory],
        channels: tuple[int, ...] = (256, 128, 64, 32),
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        self.check_encoder()
        if len(channels) != 4:
            raise ValueError(f"model.channels must be four numbers, of 4^3 to 32^3 voxels, got {list(channels)}")
        check_widths("model", channels=channels)
        self.channels = tuple(channels)
        self.fc = nn.Linear(self.c_dim, channels[0] * 4**3)
        layers: list[nn.Module] = []
        for a, b in pairwise(channels):
            layers += [nn.ReLU(), nn.ConvTranspose3d(a, b, 3, stride=2, padding=1, output_padding=1)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), nn.Conv3d(channels[-1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the voxels."""
        volume = self.fc(self.encode(x)).view(-1, self.channels[0], 4, 4, 4)
        return self.decoder(volume).squeeze(1)


class R2N2(TrainedReconstruction):
    """3D-R2N2: mean binary cross-entropy of the voxels of the unit cube; meshes are the boundary of occupied voxels.

    Metrics besides those of `TrainedReconstruction`: `val/iou` and `test/net_iou`, the IoU of the predicted voxels at
    the stored points.

    Args:
        network: a `VoxelNetwork`.
        threshold: probability from which on a voxel is occupied (official code: 0.4).
        monitor: metric that selects the weights.
        **kwargs: arguments of `TrainedReconstruction`.
    """

    def __init__(
        self, network: nn.Module, threshold: float = 0.4, monitor: str | None = "val/iou", **kwargs: Any
    ) -> None:
        super().__init__(network, monitor=monitor, **kwargs)
        check_network(network, VoxelNetwork, "r2n2")
        if not 0 < threshold < 1:
            raise ValueError(f"method.threshold is a probability between 0 and 1, got {threshold}")
        self.threshold = threshold

    def _occupied(self, logits: Tensor) -> np.ndarray:
        """Return which voxels of the first shape are occupied (R, R, R)."""
        return (logits[0].sigmoid() >= self.threshold).cpu().numpy()

    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss, and in validation the IoU."""
        if batch.voxels is None:
            raise ValueError("this method trains on voxels, and the shapes have none")
        logits = self.network(batch.inputs)
        metrics = {"loss": binary_cross_entropy_with_logits(logits, batch.voxels)}
        if not self.training:
            metrics["iou"] = torch.tensor(voxel_iou(self._occupied(logits), batch))
        return metrics

    def reconstruct(self, batch: Any) -> Reconstruction:
        """Return the boundary of the occupied voxels."""
        occupied = self._occupied(self.network(batch.inputs))
        return Reconstruction(voxel_mesh(occupied), metrics={"net_iou": voxel_iou(occupied, batch)})


def voxel_iou(occupied: np.ndarray, batch: Any) -> float:
    """Return the IoU of voxels (R, R, R) with the only shape of a batch, at its stored points."""
    return iou(lookup_voxels(occupied, batch.points[0].cpu().numpy()), batch.occupancies[0].cpu().numpy() > 0.5)
