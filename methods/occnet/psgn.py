"""PSGN, the point set generation network (Fan et al., CVPR 2017), as the paper compares with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from datasets.checks import check_positive
from methods.occnet.base import TrainedReconstruction
from methods.occnet.chamfer import squared_chamfer_distance, surface_targets
from methods.occnet.conditioned import ConditionedNetwork, EncoderFactory, check_network
from methods.occnet.evaluation import Reconstruction


class PointSetNetwork(ConditionedNetwork):
    """Encoder for the kind of input, and a fully connected decoder to a set of points.

    Args:
        inputs: kind of input, from the data set.
        num_shapes: number of training shapes, from the data set.
        encoders: factory of the encoder for each kind of input.
        hidden: width of the three hidden layers.
        points: number of points n.

    Shapes:
        x -> points (B, n, 3)
    """

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, EncoderFactory],
        hidden: int = 512,
        points: int = 1024,
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        self.check_encoder()
        check_positive("model", hidden=hidden, points=points)
        self.decoder = nn.Sequential(
            nn.Linear(self.c_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 3 * points),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return points."""
        return self.decoder(self.encode(x)).view(len(x), -1, 3)


class PSGN(TrainedReconstruction):
    """PSGN: squared Chamfer distance to points on the surface. Point sets have no IoU and no normals.

    Args:
        network: a `PointSetNetwork`.
        **kwargs: arguments of `TrainedReconstruction`.
    """

    def __init__(self, network: nn.Module, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        check_network(network, PointSetNetwork, "psgn")

    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss."""
        return {"loss": squared_chamfer_distance(self.network(batch.inputs), surface_targets(batch)).mean()}

    def reconstruct(self, batch: Any) -> Reconstruction:
        """Return the points."""
        return Reconstruction(None, self.network(batch.inputs)[0].cpu().numpy(), closed=False)
