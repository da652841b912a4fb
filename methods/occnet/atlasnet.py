"""AtlasNet (Groueix et al., CVPR 2018): patches that map the unit square to the surface.

The decoder is that of the authors' code, version 2: per patch a 2-1024-512-512-512-3 network with batch norm and ReLU
after each hidden layer, no activation at the end, and the code added to the first layer; 26.5 M parameters for 25
patches. The encoders are those of the other methods, with codes as wide as the first layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.checks import check_positive
from methods.occnet.base import TrainedReconstruction
from methods.occnet.chamfer import squared_chamfer_distance, surface_targets
from methods.occnet.conditioned import ConditionedNetwork, EncoderFactory, check_network
from methods.occnet.evaluation import Reconstruction
from methods.occnet.mesh import Mesh


class PatchNetwork(ConditionedNetwork):
    """Encoder for the kind of input, and a decoder that maps points of the unit square to the surface, per patch.

    The networks of all patches run as one, by grouped convolutions.

    Args:
        inputs: kind of input, from the data set.
        num_shapes: number of training shapes, from the data set.
        encoders: factory of the encoder for each kind of input. The size of the code is the width of the first layer
            (published: 1024).
        patches: number of patches P (paper's comparison: 25).
        hidden: width of the layers after the first one.
        num_layers: number of layers from `hidden` to `hidden`.

    Shapes:
        uv (B, P, n, 2) in [0, 1], x -> points (B, P, n, 3)
    """

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        encoders: Mapping[str, EncoderFactory],
        patches: int = 25,
        hidden: int = 512,
        num_layers: int = 2,
    ) -> None:
        super().__init__(inputs, num_shapes, encoders)
        self.check_encoder()
        check_positive("model", patches=patches, hidden=hidden, num_layers=num_layers)
        self.patches = patches
        self.conv1 = nn.Conv1d(patches * 2, patches * self.c_dim, 1, groups=patches)
        widths = [self.c_dim] + [hidden] * (num_layers + 1)
        layers: list[nn.Module] = []
        for a, b in pairwise([*widths, 3]):
            layers += [
                nn.BatchNorm1d(patches * a),
                nn.ReLU(),
                nn.Conv1d(patches * a, patches * b, 1, groups=patches),
            ]
        self.decoder = nn.Sequential(*layers)

    def forward(self, uv: Tensor, x: Tensor) -> Tensor:
        """Return points on the surface."""
        size, _, n, _ = uv.shape
        code = self.encode(x).repeat(1, self.patches)
        h = self.conv1(uv.mT.reshape(size, -1, n)) + code[..., None]
        return self.decoder(h).view(size, self.patches, 3, n).mT


class AtlasNet(TrainedReconstruction):
    """AtlasNet: squared Chamfer distance of points drawn on all patches. The mesh is open, so it has no IoU.

    Args:
        network: a `PatchNetwork`.
        points: number of points drawn in a training step, divided among the patches.
        grid_size: vertices per side of the grid that each patch of the mesh has.
        **kwargs: arguments of `TrainedReconstruction`.
    """

    network: PatchNetwork

    def __init__(self, network: nn.Module, points: int = 2500, grid_size: int = 10, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        check_network(network, PatchNetwork, "atlasnet")
        if points < self.network.patches or grid_size < 2:
            raise ValueError(
                f"method.points must be at least model.patches={self.network.patches} and method.grid_size at least "
                f"2, got {points} and {grid_size}"
            )
        self.points_per_patch, self.grid_size = points // self.network.patches, grid_size

    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss. In validation the points on a patch depend on the shape alone."""
        size = (len(batch.index), self.network.patches, self.points_per_patch, 2)
        if self.training:
            uv = torch.rand(size).to(self.device)
        else:
            generator = torch.Generator().manual_seed(int(batch.index[0]))
            uv = torch.rand(size, generator=generator).to(self.device)
        points = self.network(uv, batch.inputs).flatten(1, 2)
        return {"loss": squared_chamfer_distance(points, surface_targets(batch)).mean()}

    def reconstruct(self, batch: Any) -> Reconstruction:
        """Return the grids of all patches as one mesh."""
        uv, faces = patch_grid(self.grid_size)
        patches = self.network.patches
        vertices = self.network(uv.to(self.device).expand(1, patches, -1, 2), batch.inputs)[0].flatten(0, 1)
        first = np.arange(patches)[:, None, None] * len(uv)
        return Reconstruction(Mesh(vertices.cpu().numpy(), (first + faces).reshape(-1, 3)), closed=False)


def patch_grid(size: int) -> tuple[Tensor, np.ndarray]:
    """Triangulate the unit square by a regular grid.

    Args:
        size: vertices per side.

    Returns:
        (u, v) in [0, 1] of the vertices, (size^2, 2), and faces (2 (size - 1)^2, 3).
    """
    axis = torch.linspace(0, 1, size)
    uv = torch.cartesian_prod(axis, axis)
    corner = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).ravel()
    lower = np.stack([corner, corner + size, corner + size + 1], axis=1)
    upper = np.stack([corner, corner + size + 1, corner + 1], axis=1)
    return uv, np.concatenate([lower, upper])
